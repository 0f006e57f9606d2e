"""Read a MambaInLlama checkpoint from a local folder, and write one."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import LlamaConfig

from scanproof.models.layout import CheckpointError
from scanproof.models.mamba_in_llama.config import (
    LLAMA_CONFIG,
    MAMBA_CONFIG,
    HybridConfig,
    Mamba1Settings,
    Mamba2Settings,
    read_config,
)
from scanproof.models.mamba_in_llama.model import HybridLlama
from scanproof.models.mamba_in_llama.operations import operations
from scanproof.models.shards import check_keys, check_tied, load_weights, map_tensors

EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"


@dataclass(frozen=True, kw_only=True)
class Precision:
    """The dtypes of a loaded model.

    The published adapters cast the whole module to bfloat16, including A_log, D and the rotary frequencies, which most
    models keep in float32.  The published numbers were measured that way, so it is the default here.
    """

    weights: torch.dtype = torch.bfloat16
    ssm: torch.dtype | None = None
    """Dtype of A_log and D; None for that of the weights."""
    rope: torch.dtype | None = None
    """Dtype to which the rotary frequencies are rounded; None for that of the weights."""

    def of(self, key: str) -> torch.dtype:
        """The dtype of the parameter `key`."""
        return self.ssm or self.weights if key.endswith(("mamba.A_log", "mamba.D")) else self.weights


def load(
    folder: Path,
    mixer: type[Mamba1Settings] | type[Mamba2Settings],
    precision: Precision,
    device: torch.device | str = "cpu",
    attn_implementation: str | None = None,
) -> HybridLlama:
    """The model of a checkpoint folder, ready to score.

    Weights stay mapped, or are converted and moved piece by piece (`shards.load_weights`), so the peak of memory is
    little more than what the model takes.

    Raises:
        CheckpointError: see `read_config`, `map_tensors`, `check_keys` and `check_tied`.
        ImportError: the device is a GPU and its kernels are not installed.
    """
    device = torch.device(device)
    config = read_config(folder, mixer)
    llama_config(folder, config)
    ops = operations(device)
    with torch.device("meta"):
        model = HybridLlama(config, ops, attn_implementation)
    shapes = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    tied = bool(model.config.tie_word_embeddings)
    tensors = map_tensors(folder)
    if tied and EMBEDDING in tensors:
        tensors.setdefault(HEAD, tensors[EMBEDDING])
    check_keys(tensors, shapes, folder)
    if tied:
        check_tied(tensors, HEAD, EMBEDDING, f"{LLAMA_CONFIG} says tie_word_embeddings")
        del shapes[HEAD]
    for key, value in load_weights(tensors, {key: precision.of(key) for key in shapes}, device).items():
        _assign(model, key, value)
    if tied:
        model.lm_head.weight = model.model.embed_tokens.weight
    model.set_rotary(precision.rope or precision.weights, device)
    model.train(False)
    return model


def llama_config(folder: Path, config: HybridConfig) -> LlamaConfig:
    """transformers' LlamaConfig for the checkpoint's config.json.

    Raises:
        CheckpointError: transformers does not accept the fields.
    """
    try:
        return LlamaConfig(**config.llama_arguments())
    except Exception as error:  # The type differs between versions.
        reason = " ".join(str(error).split())
        raise CheckpointError(f"{folder / LLAMA_CONFIG}: transformers does not accept it: {reason}") from error


def save(model: HybridLlama, folder: Path, dtype: torch.dtype, max_shard_size: str = "5GB") -> None:
    """Write a checkpoint in the published layout: both configs, and safetensors in one file or in shards."""
    from huggingface_hub import save_torch_state_dict

    folder.mkdir(parents=True, exist_ok=True)
    llama = {**model.hybrid.llama_fields(), "torch_dtype": str(dtype).removeprefix("torch.")}
    for name, data in ((MAMBA_CONFIG, model.hybrid.mamba_fields()), (LLAMA_CONFIG, llama)):
        (folder / name).write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8", newline="\n")
    tensors = {key: value.detach().to(dtype).clone() for key, value in model.state_dict().items()}
    if model.config.tie_word_embeddings:
        del tensors[HEAD]
    save_torch_state_dict(tensors, folder, max_shard_size=max_shard_size, metadata={"format": "pt"})
    for path in folder.glob("*.safetensors"):
        # safetensors makes the file readable by its owner only.
        path.chmod(0o644)


def _assign(model: nn.Module, key: str, value: Tensor) -> None:
    owner, _, name = key.rpartition(".")
    setattr(model.get_submodule(owner), name, nn.Parameter(value, requires_grad=False))


__all__ = ["HybridConfig", "Precision", "load", "save"]
