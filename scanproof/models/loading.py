"""Read a checkpoint of the state-spaces layout from a local folder, and write one."""

from __future__ import annotations

import json
import pickle
import zipfile
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor

from scanproof.models.language_model import StateSpacesLM
from scanproof.models.layout import CheckpointError, StateSpacesConfig, read_config

SAFETENSORS = "model.safetensors"
PICKLE = "pytorch_model.bin"
EMBEDDING, HEAD = "backbone.embedding.weight", "lm_head.weight"


SMALLEST_ROUND = 4 * 2**20
ROUNDS = 20
"""How many rounds read a large checkpoint: what one reads, beside the weights so far, is in memory at once."""


def weight_file(folder: Path) -> Path:
    """The weight file of a checkpoint folder; safetensors first.

    Raises:
        CheckpointError: there is none.
    """
    for path in (folder / SAFETENSORS, folder / PICKLE):
        if path.is_file():
            return path
    raise CheckpointError(f"{folder}: neither {SAFETENSORS} nor {PICKLE} is there")


def mapped(path: Path, keys: Collection[str] | None = None) -> dict[str, Tensor]:
    """The tensors of a weight file, mapped: what is touched comes into memory, and leaves it with the last tensor.

    Args:
        keys: those that are needed, all when None; a few pages of each are touched at once.

    A pickle in the format of torch before 1.6 cannot be mapped and is read whole.

    Raises:
        CheckpointError: it cannot be read; a pickle may hold nothing but tensors.
    """
    try:
        if path.name == SAFETENSORS:
            return _safetensors(path, keys)
        found = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise CheckpointError(f"{path}: not a readable state dict of tensors: {error}") from error
    if not isinstance(found, dict) or not all(isinstance(value, Tensor) for value in found.values()):
        raise CheckpointError(f"{path}: not a readable state dict of tensors: it holds something else")
    return dict(found)


def _safetensors(path: Path, keys: Collection[str] | None) -> dict[str, Tensor]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            return {key: file.get_tensor(key) for key in keys or file.keys()}
    except SafetensorError as error:
        raise CheckpointError(f"{path}: not a readable safetensors file: {error}") from error


def mapped_again(path: Path, found: dict[str, Tensor], keys: Collection[str]) -> dict[str, Tensor]:
    """A new mapping, so that memory lets go of what `found` has touched; `found` itself where it is not mapped."""
    return mapped(path, keys) if path.name == SAFETENSORS or zipfile.is_zipfile(path) else found


def rounds(tensors: Mapping[str, Tensor], size: int) -> Iterator[list[tuple[str, slice]]]:
    """Rows of tensors in groups of at most about `size` bytes, at least a row each: all rows of all tensors."""
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


def check_state_dict(found: Mapping[str, Tensor], shapes: Mapping[str, torch.Size], path: Path) -> None:
    """Compare keys and shapes with those that the config asks for.

    Raises:
        CheckpointError: names the file and every key that is missing, left over or of another shape.
    """
    problems = [f"{key}: missing" for key in shapes if key not in found]
    problems += [f"{key}: the config has no place for it" for key in found if key not in shapes]
    problems += [
        f"{key}: shape {tuple(found[key].shape)}, but the config asks for {tuple(shape)}"
        for key, shape in shapes.items()
        if key in found and found[key].shape != shape
    ]
    if problems:
        raise CheckpointError("\n".join(f"{path}: {problem}" for problem in problems))


def check_tied(path: Path, size: int) -> None:
    """Compare lm_head with the embedding, where the file holds both, `size` bytes of each at a time.

    Raises:
        CheckpointError: they differ.
    """
    found = mapped(path)
    if HEAD not in found or found[HEAD].data_ptr() == found[EMBEDDING].data_ptr():
        return
    for ((_, rows),) in list(rounds({EMBEDDING: found[EMBEDDING]}, size)):
        found = mapped_again(path, found, (HEAD, EMBEDDING))
        if not torch.equal(found[HEAD][rows], found[EMBEDDING][rows]):
            raise CheckpointError(f"{path}: {HEAD}: differs from {EMBEDDING}, but config.json says tie_embeddings")


def read_checkpoint(
    folder: Path, dtype: torch.dtype = torch.float32
) -> tuple[StateSpacesConfig, dict[str, Tensor], StateSpacesLM]:
    """Config, checked state dict as stored and mapped, and a model of `dtype` that has its shapes but no memory.

    A file that leaves out a tied lm_head, as safetensors conversions do, is completed.

    Raises:
        CheckpointError: see `read_config`, `weight_file`, `mapped`, `check_state_dict` and `check_tied`.
    """
    config, path = read_config(folder / "config.json"), weight_file(folder)
    state = mapped(path)
    if config.tie_embeddings and EMBEDDING in state:
        state.setdefault(HEAD, state[EMBEDDING])
    try:
        with torch.device("meta"):
            blank = StateSpacesLM(config, dtype)
    except (TypeError, KeyError, ValueError) as error:
        raise CheckpointError(f"{folder / 'config.json'}: ssm_cfg or attn_cfg: {error}") from error
    check_state_dict(state, {key: value.shape for key, value in blank.state_dict().items()}, path)
    if config.tie_embeddings:
        check_tied(path, _round_size(blank) // 2)
        state[HEAD] = state[EMBEDDING]
    return config, state, blank.eval()


def _round_size(model: StateSpacesLM) -> int:
    return max(SMALLEST_ROUND, sum(parameter.nbytes for parameter in model.parameters()) // ROUNDS)


def load(folder: Path, dtype: torch.dtype = torch.float32) -> StateSpacesLM:
    """The reference model of a checkpoint folder on the CPU, ready to score.

    Weights are converted to `dtype`; what mamba_ssm keeps in float32 (Mamba-1's A_log, every D) stays in
    float32, or float64 in a float64 model.  While it loads, memory holds the weights, as converted, and a twentieth
    of them as stored.

    Raises:
        CheckpointError: see `read_checkpoint`.
    """
    config, stored, model = read_checkpoint(folder, dtype)
    path = weight_file(folder)
    # A tied lm_head is not among them: it is one parameter with the embedding.
    weights = {key: torch.empty_like(value, device="cpu") for key, value in model.named_parameters()}
    for group in list(rounds({key: stored[key] for key in weights}, _round_size(model))):
        stored = mapped_again(path, stored, {key for key, _ in group})
        for key, rows in group:
            weights[key][rows].copy_(stored[key][rows])
    if config.tie_embeddings:
        weights[HEAD] = weights[EMBEDDING]
    model.load_state_dict(weights, assign=True)
    model.tie_weights()
    return model


def save(model: StateSpacesLM, folder: Path, dtype: torch.dtype) -> None:
    """Write config.json and model.safetensors; A_log and D in float32, all else in `dtype`."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(model.config.to_dict(), indent=2)
    (folder / "config.json").write_text(text + "\n", encoding="utf-8", newline="\n")
    tensors = {
        key: value.to(torch.float32 if key.endswith(("A_log", ".D")) else dtype).clone()
        for key, value in model.state_dict().items()
    }
    save_file(tensors, folder / SAFETENSORS, metadata={"format": "pt"})
    # safetensors makes the file readable by its owner alone.
    (folder / SAFETENSORS).chmod(0o644)
