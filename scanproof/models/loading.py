"""Read a checkpoint of the state-spaces layout from a local folder, and write one."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from scanproof.models.blank import make_without_weights
from scanproof.models.language_model import StateSpacesLM
from scanproof.models.layout import CheckpointError, StateSpacesConfig, read_config
from scanproof.models.shards import SAFETENSORS, Stored, check_keys, check_tied, load_weights, map_tensors

EMBEDDING, HEAD = "backbone.embedding.weight", "lm_head.weight"


def read_checkpoint(
    folder: Path, dtype: torch.dtype = torch.float32
) -> tuple[StateSpacesConfig, dict[str, Stored], StateSpacesLM]:
    """The config, the checked tensors as they are stored, and a model of `dtype` on the meta device.

    Where the file leaves out a tied lm_head, as safetensors conversions do, the embedding takes its place.

    Raises:
        CheckpointError: see `read_config`, `map_tensors`, `check_keys` and `check_tied`.
    """
    config = read_config(folder / "config.json")
    tensors = map_tensors(folder)
    if config.tie_embeddings and EMBEDDING in tensors:
        tensors.setdefault(HEAD, tensors[EMBEDDING])
    try:
        blank = make_without_weights(lambda: StateSpacesLM(config, dtype))
    except (TypeError, KeyError, ValueError) as error:
        raise CheckpointError(f"{folder / 'config.json'}: ssm_cfg or attn_cfg: {error}") from error
    check_keys(tensors, {key: tuple(value.shape) for key, value in blank.state_dict().items()}, folder)
    if config.tie_embeddings:
        check_tied(tensors, HEAD, EMBEDDING, "config.json says tie_embeddings")
        tensors[HEAD] = tensors[EMBEDDING]
    return config, tensors, blank.eval()


def load(folder: Path, dtype: torch.dtype = torch.float32) -> StateSpacesLM:
    """The reference model of a checkpoint folder on the CPU, ready to score.

    Weights are converted to `dtype`.  Those that mamba_ssm keeps in float32 (Mamba-1's A_log, every D) are float32, or
    float64 in a float64 model.  A tensor that is already stored in its dtype stays mapped: see `shards.load_weights`.

    Raises:
        CheckpointError: see `read_checkpoint`.
    """
    config, tensors, model = read_checkpoint(folder, dtype)
    # named_parameters leaves out a tied lm_head, because it is the embedding.
    state = load_weights(tensors, {key: value.dtype for key, value in model.named_parameters()})
    if config.tie_embeddings:
        state[HEAD] = state[EMBEDDING]
    model.load_state_dict(state, assign=True)
    model.tie_weights()
    return model


def save(model: StateSpacesLM, folder: Path, dtype: torch.dtype) -> None:
    """Write config.json and model.safetensors; A_log and D in float32, the others in `dtype`."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(model.config.to_dict(), indent=2)
    (folder / "config.json").write_text(text + "\n", encoding="utf-8", newline="\n")
    tensors = {
        key: value.to(torch.float32 if key.endswith(("A_log", ".D")) else dtype).clone()
        for key, value in model.state_dict().items()
    }
    save_file(tensors, folder / SAFETENSORS, metadata={"format": "pt"})
    # safetensors makes the file readable by its owner only.
    (folder / SAFETENSORS).chmod(0o644)
