"""Read a checkpoint of the state-spaces layout from a local folder, and write one."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import torch
from torch import Tensor

from scanproof.models.language_model import StateSpacesLM
from scanproof.models.layout import CheckpointError, StateSpacesConfig, read_config

SAFETENSORS = "model.safetensors"
PICKLE = "pytorch_model.bin"
EMBEDDING, HEAD = "backbone.embedding.weight", "lm_head.weight"


def read_state_dict(folder: Path) -> tuple[dict[str, Tensor], Path]:
    """The tensors of a checkpoint folder, and the file that they come from; safetensors first.

    Raises:
        CheckpointError: no weight file, or one that cannot be read; a pickle may hold nothing but tensors.
    """
    path = folder / SAFETENSORS
    try:
        if path.is_file():
            from safetensors import SafetensorError
            from safetensors.torch import load_file

            try:
                return dict(load_file(path)), path
            except SafetensorError as error:
                raise CheckpointError(f"{path}: not a readable safetensors file: {error}") from error
        path = folder / PICKLE
        if path.is_file():
            return dict(torch.load(path, map_location="cpu", weights_only=True)), path
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise CheckpointError(f"{path}: not a readable state dict of tensors: {error}") from error
    raise CheckpointError(f"{folder}: neither {SAFETENSORS} nor {PICKLE} is there")


def check_state_dict(found: dict[str, Tensor], shapes: dict[str, torch.Size], path: Path, tied: bool) -> None:
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
    if not problems and tied and not torch.equal(found[HEAD], found[EMBEDDING]):
        problems.append(f"{HEAD}: differs from {EMBEDDING}, but config.json says tie_embeddings")
    if problems:
        raise CheckpointError("\n".join(f"{path}: {problem}" for problem in problems))


def read_checkpoint(folder: Path) -> tuple[StateSpacesConfig, dict[str, Tensor]]:
    """Config and checked state dict of a folder, as stored.

    A file that leaves out a tied lm_head, as safetensors conversions do, is completed.

    Raises:
        CheckpointError: see `read_config`, `read_state_dict` and `check_state_dict`.
    """
    config = read_config(folder / "config.json")
    state, path = read_state_dict(folder)
    if config.tie_embeddings and EMBEDDING in state:
        state.setdefault(HEAD, state[EMBEDDING])
    try:
        with torch.device("meta"):
            blank = StateSpacesLM(config)
    except (TypeError, KeyError, ValueError) as error:
        raise CheckpointError(f"{folder / 'config.json'}: ssm_cfg or attn_cfg: {error}") from error
    shapes = {key: value.shape for key, value in blank.state_dict().items()}
    check_state_dict(state, shapes, path, config.tie_embeddings)
    return config, state


def load(folder: Path, dtype: torch.dtype = torch.float32) -> StateSpacesLM:
    """The reference model of a checkpoint folder on the CPU, ready to score.

    Weights are converted to `dtype`; what mamba_ssm keeps in float32 (Mamba-1's A_log, every D) stays in
    float32, or float64 in a float64 model.

    Raises:
        CheckpointError: see `read_checkpoint`.
    """
    config, state = read_checkpoint(folder)
    model = StateSpacesLM(config, dtype)
    model.load_state_dict(state)
    return model.eval()


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
