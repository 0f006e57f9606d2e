"""The tensors of a checkpoint folder, piece by piece: safetensors or pickled, in one file or in several with an index.

Whoever reads a checkpoint through this holds the weights once, and beside them a few MB as they were stored.
"""

from __future__ import annotations

import json
import pickle
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from scanproof.models.layout import CheckpointError

SAFETENSORS = "model.safetensors"
PICKLED = "pytorch_model.bin"
INDEX = ".index.json"
SMALLEST, LARGEST = 2**20, 2**28
"""Limits of a piece, in bytes: each opens its file once more."""


@dataclass(frozen=True)
class Stored:
    """Where a tensor lies and how large it is; nothing of it is in memory."""

    path: Path
    shape: tuple[int, ...]
    bytes: int


def stored_tensors(folder: Path) -> dict[str, Stored]:
    """Every tensor of the checkpoint in `folder`, by its key; safetensors before pickled files, one file before shards.

    Raises:
        CheckpointError: there are no weights, a file cannot be read, or it holds other keys than the index says.
    """
    for name in (SAFETENSORS, PICKLED):
        if (folder / name).is_file():
            return _contents(folder / name)
        if (folder / f"{name}{INDEX}").is_file():
            return _indexed(folder / f"{name}{INDEX}")
    raise CheckpointError(f"{folder}: neither {SAFETENSORS} nor {PICKLED}, nor an index of shards of either, is there")


def piece_size(found: Mapping[str, Stored]) -> int:
    """Bytes to read at a time: a twentieth of the checkpoint, within limits."""
    return min(LARGEST, max(SMALLEST, sum(stored.bytes for stored in found.values()) // 20))


def pieces(key: str, stored: Stored, size: int) -> Iterator[tuple[slice, Tensor]]:
    """A tensor in pieces of about `size` bytes along its first axis, each with its place.

    Each piece is mapped from the file anew and not copied.  Drop it before taking the next: what was read of a
    mapped file counts as memory of the process until the mapping is gone.

    Raises:
        CheckpointError: the file cannot be read.
    """
    length = stored.shape[0] if stored.shape else 1
    step = max(1, size * length // max(1, stored.bytes))
    for start in range(0, length, step):
        place = slice(start, min(start + step, length))
        yield place, _mapped(key, stored.path).view(stored.shape or (1,))[place]


def read_into(target: Tensor, key: str, stored: Stored, size: int) -> None:
    """Fill `target` with a tensor, converted to its dtype and moved to its device, `size` bytes at a time.

    Raises:
        CheckpointError: the file cannot be read.
    """
    for place, piece in pieces(key, stored, size):
        target.view(stored.shape or (1,))[place].copy_(piece)
        del piece


def _mapped(key: str, path: Path) -> Tensor:
    """A whole tensor; only what is looked at is read."""
    if path.suffix != ".safetensors":
        return _unpickled(path)[key]
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        return _tensor(path, key, file.get_tensor(key))


def check_keys(found: Mapping[str, Stored], shapes: Mapping[str, tuple[int, ...]], folder: Path) -> None:
    """Compare what a checkpoint holds with what its config asks for.

    Raises:
        CheckpointError: names the file and every key that is missing, left over or of another shape.
    """
    files = sorted({stored.path.name for stored in found.values()})
    where = folder / files[0] if len(files) == 1 else f"{folder} ({', '.join(files)})"
    problems = [f"{where}: {key}: missing" for key in shapes if key not in found]
    problems += [
        f"{stored.path}: {key}: the config has no place for it" for key, stored in found.items() if key not in shapes
    ]
    problems += [
        f"{found[key].path}: {key}: shape {found[key].shape}, but the config asks for {shape}"
        for key, shape in shapes.items()
        if key in found and found[key].shape != shape
    ]
    if problems:
        more = [f"and {len(problems) - 10} more"] if len(problems) > 10 else []
        raise CheckpointError("\n".join(problems[:10] + more))


def _indexed(index: Path) -> dict[str, Stored]:
    try:
        where = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        names = sorted(set(where.values()))
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{index}: not an index of shards ({type(error).__name__}: {error})") from None
    found: dict[str, Stored] = {}
    for name in names:
        if Path(name).name != name:
            raise CheckpointError(f"{index}: weight_map: {name!r} does not name a file beside it")
        if not (index.parent / name).is_file():
            key = next(key for key, value in where.items() if value == name)
            raise CheckpointError(f"{index.parent / name}: there is no such file; {index.name} has {key} in it")
        contents = _contents(index.parent / name)
        for key in contents:
            if where.get(key) != name:
                raise CheckpointError(f"{index.parent / name}: {key}: {index.name} does not have it in this file")
        found |= contents
    for key, name in where.items():
        if key not in found:
            raise CheckpointError(f"{index.parent / name}: {key}: missing, but {index.name} has it in this file")
    return found


def _contents(path: Path) -> dict[str, Stored]:
    """The tensors of one file, from its header alone."""
    return {key: Stored(path, shape, size) for key, shape, size in _headers(path)}


def _headers(path: Path) -> Iterator[tuple[str, tuple[int, ...], int]]:
    if path.suffix != ".safetensors":
        for key, tensor in _unpickled(path).items():
            yield key, tuple(tensor.shape), tensor.nbytes
        return
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            for key in file.keys():  # noqa: SIM118 - the handle is no mapping
                tensor = file.get_tensor(key)
                yield key, tuple(tensor.shape), _tensor(path, key, tensor).nbytes
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path}: not a readable safetensors file, perhaps cut short: {error}") from error


def _unpickled(path: Path) -> dict[str, Tensor]:
    """The mapped tensors of a pickled file that holds nothing else; it cannot run code."""
    try:
        found = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError as error:
        reason = str(error).partition("\n")[0]
        raise CheckpointError(
            f"{path}: refused, and nothing of it was run: a state dict holds tensors alone ({reason})"
        ) from None
    except (RuntimeError, EOFError, ValueError, OSError) as error:
        raise CheckpointError(f"{path}: not a readable state dict of tensors, perhaps cut short: {error}") from error
    if not isinstance(found, dict):
        raise CheckpointError(f"{path}: a {type(found).__name__}, not a state dict of tensors")
    return {str(key): _tensor(path, str(key), value) for key, value in found.items()}


def _tensor(path: Path, key: str, value: object) -> Tensor:
    if not isinstance(value, Tensor):
        raise CheckpointError(f"{path}: {key}: a {type(value).__name__}, not a tensor")
    if not value.is_floating_point():
        raise CheckpointError(f"{path}: {key}: {value.dtype}; weights are floating-point numbers")
    return value
