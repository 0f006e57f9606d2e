"""The tensors of a checkpoint folder: safetensors or pickles, in one file or in several with an index.

Tensors that need no conversion stay memory-mapped from their file, as in transformers.  Reading a checkpoint takes the
memory of its weights once, and in addition a tenth of the converted bytes, or 4 MB per thread.
"""

from __future__ import annotations

import pickle
import struct
import zipfile
from collections.abc import Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from scanproof import files
from scanproof.environment import usable_cpus
from scanproof.models.layout import CheckpointError, read_weight_map

SAFETENSORS = "model.safetensors"
PICKLED = "pytorch_model.bin"
INDEX = ".index.json"
SMALLEST, LARGEST = 2**22, 2**28
"""Fewest and most bytes that are converted at a time; each time opens its files again."""
AT_MOST = 4
"""Most threads that convert."""
DAMAGED_PICKLE = (
    RuntimeError, EOFError, ValueError, OSError, LookupError, TypeError, AttributeError, AssertionError,
    zipfile.BadZipFile, struct.error, MemoryError, OverflowError,
)  # fmt: skip
"""What torch raises for damaged files beside UnpicklingError: its reader checks little of what it reads."""


@dataclass(frozen=True)
class Stored:
    """A memory-mapped tensor of a file: pages that are read come into memory and stay while the tensor exists."""

    path: Path
    tensor: Tensor

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.tensor.shape)


def map_tensors(folder: Path) -> dict[str, Stored]:
    """Key -> tensor of the checkpoint in `folder`.

    Safetensors are preferred to pickles, a single file to shards.  A pickle in the format of torch before 1.6 cannot be
    mapped and is read whole.

    Raises:
        CheckpointError: there are no weights, a file cannot be read, or its keys are not those of the index.
    """
    for name in (SAFETENSORS, PICKLED):
        if (folder / name).is_file():
            return _map_file(folder / name)
        if (folder / f"{name}{INDEX}").is_file():
            return _map_indexed(folder / f"{name}{INDEX}")
    raise CheckpointError(f"{folder}: neither {SAFETENSORS} nor {PICKLED}, nor an index of shards of either, is there")


def load_weights(
    tensors: Mapping[str, Stored], dtypes: Mapping[str, torch.dtype], device: torch.device | str = "cpu"
) -> dict[str, Tensor]:
    """The tensors that `dtypes` names, in these dtypes, on `device`.

    On the CPU a tensor that is already stored in its dtype is not copied: it stays mapped.  Its file may then be
    removed or replaced by a rename, as the hub's client does.  Overwriting the file in place changes the weights.
    Other tensors are converted and moved a tenth of the checkpoint at a time.

    Raises:
        CheckpointError: a file can no longer be read.
    """
    device, result, moved = torch.device(device), {}, {}
    for key, dtype in dtypes.items():
        tensor = tensors[key].tensor
        if tensor.dtype == dtype and device.type == "cpu":
            result[key] = tensor
        else:
            result[key] = torch.empty(tensor.shape, dtype=dtype, device=device)
            moved[key] = tensors[key]
    threads = min(AT_MOST, max(1, usable_cpus() // torch.get_num_threads()))
    share = sum(stored.tensor.nbytes for stored in moved.values()) // (10 * threads)
    groups = split_rows({key: stored.tensor for key, stored in moved.items()}, min(LARGEST, max(SMALLEST, share)))

    def move(parts: list[tuple[str, slice]]) -> None:
        fresh = _map_again(moved, {key for key, _ in parts})
        for key, rows in parts:
            result[key][rows].copy_(fresh[key][rows])

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(move, groups))
    return result


def check_tied(tensors: Mapping[str, Stored], head: str, embedding: str, setting: str) -> None:
    """Compare a tied head with the embedding of the same shape, a few MB at a time, where the checkpoint holds both.

    Raises:
        CheckpointError: they differ, although `setting` says that they are tied.
    """
    first, second = tensors[head].tensor, tensors[embedding].tensor
    if first.data_ptr() == second.data_ptr():
        return
    for ((_, rows),) in split_rows({head: first}, SMALLEST):
        fresh = _map_again(tensors, {head, embedding})
        if not torch.equal(fresh[head][rows], fresh[embedding][rows]):
            raise CheckpointError(f"{tensors[head].path}: {head}: differs from {embedding}, but {setting}")


def split_rows(tensors: Mapping[str, Tensor], size: int) -> Iterator[list[tuple[str, slice]]]:
    """Split all rows of all tensors into groups of about `size` bytes at most, and at least one row."""
    group: list[tuple[str, slice]] = []
    free = size
    for key, tensor in tensors.items():
        row = max(1, tensor[:1].nbytes)
        start = 0
        while start < len(tensor):
            stop = min(len(tensor), start + max(1, free // row))
            group.append((key, slice(start, stop)))
            free -= (stop - start) * row
            start = stop
            if free < row:
                yield group
                group, free = [], size
    if group:
        yield group


def _map_again(tensors: Mapping[str, Stored], keys: Collection[str]) -> dict[str, Tensor]:
    """Map these tensors again: when a new mapping is dropped, the pages that were read through it leave memory.

    A file that cannot be mapped keeps its tensors.
    """
    fresh: dict[str, Tensor] = {}
    for path in {tensors[key].path for key in keys}:
        here = {key for key in keys if tensors[key].path == path}
        if path.suffix != ".safetensors" and not zipfile.is_zipfile(path):
            fresh |= {key: tensors[key].tensor for key in here}
        else:
            fresh |= _read(path, here)
    return fresh


def check_keys(tensors: Mapping[str, Stored], shapes: Mapping[str, tuple[int, ...]], folder: Path) -> None:
    """Compare the keys and shapes of a checkpoint with those that its config asks for.

    Raises:
        CheckpointError: names the file and every key that is missing, unknown or of another shape; at most ten.
    """
    names = sorted({stored.path.name for stored in tensors.values()})
    where = folder / names[0] if len(names) == 1 else f"{folder} ({', '.join(names)})"
    problems = [f"{where}: {key}: missing" for key in shapes if key not in tensors]
    problems += [
        f"{stored.path}: {key}: the config has no place for it" for key, stored in tensors.items() if key not in shapes
    ]
    problems += [
        f"{tensors[key].path}: {key}: shape {tensors[key].shape}, but the config asks for {shape}"
        for key, shape in shapes.items()
        if key in tensors and tensors[key].shape != shape
    ]
    if problems:
        more = [f"and {len(problems) - 10} more"] if len(problems) > 10 else []
        raise CheckpointError("\n".join(problems[:10] + more))


def _map_indexed(index: Path) -> dict[str, Stored]:
    where = read_weight_map(index)
    tensors: dict[str, Stored] = {}
    for name in sorted(set(where.values())):
        if not files.is_file(index.parent / name):
            key = next(key for key, value in where.items() if value == name)
            raise CheckpointError(f"{index.parent / name}: there is no such file; {index.name} has {key} in it")
        contents = _map_file(index.parent / name)
        for key in contents:
            if where.get(key) != name:
                raise CheckpointError(f"{index.parent / name}: {key}: {index.name} does not have it in this file")
        tensors |= contents
    for key, name in where.items():
        if key not in tensors:
            raise CheckpointError(f"{index.parent / name}: {key}: missing, but {index.name} has it in this file")
    return tensors


def _map_file(path: Path) -> dict[str, Stored]:
    return {key: Stored(path, tensor) for key, tensor in _read(path).items()}


def _read(path: Path, keys: Collection[str] | None = None) -> dict[str, Tensor]:
    """The mapped tensors of one file; all of them where `keys` is None."""
    if path.suffix != ".safetensors":
        return _unpickle(path)
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            return {key: _check_tensor(path, key, file.get_tensor(key)) for key in keys or file.keys()}
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path}: not a readable safetensors file: {error}; perhaps it was cut short") from error


def _unpickle(path: Path) -> dict[str, Tensor]:
    """The tensors of a pickled file that holds nothing else; no code of the pickle is run."""
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError as error:
        reason = f"refused, and nothing of it was run: {describe_refusal(error)}"
        raise CheckpointError(f"{path}: not a readable state dict of tensors: {reason}") from None
    except DAMAGED_PICKLE as error:
        raise CheckpointError(
            f"{path}: not a readable state dict of tensors: {describe_refusal(error)}; perhaps it was cut short"
        ) from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: a {type(content).__name__}, not a state dict of tensors")
    return {str(key): _check_tensor(path, str(key), value) for key, value in content.items()}


def describe_refusal(error: Exception) -> str:
    """The line of torch's message that says what it refused, without its advice to load the file anyway."""
    lines = str(error).splitlines() or ["it ends too early"]
    refused = next((line for line in lines if "nsupported" in line), lines[0])
    return refused.strip().partition(" Please use")[0]


def _check_tensor(path: Path, key: str, value: object) -> Tensor:
    if not isinstance(value, Tensor):
        raise CheckpointError(f"{path}: {key}: a {type(value).__name__}, not a tensor")
    if not value.is_floating_point():
        raise CheckpointError(f"{path}: {key}: {value.dtype}; weights are floating-point numbers")
    return value
