"""A checkpoint of the state-spaces layout in transformers' layout: one key is renamed, the bytes are the same."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from scanproof.models.layout import StateSpacesConfig
from scanproof.models.loading import EMBEDDING, HEAD, read_checkpoint

RENAMED = "backbone.embeddings.weight"


def has_class(config: StateSpacesConfig) -> bool:
    """Whether transformers has a class for the model: Mamba or Mamba-2 alone, without attention or MLP."""
    return not config.attn_layer_idx and not config.d_intermediate


def transformers_config(config: StateSpacesConfig) -> Any:
    """MambaConfig or Mamba2Config of the same model."""
    from transformers import Mamba2Config, MambaConfig

    settings = config.ssm_cfg
    fields: dict[str, Any] = {
        "vocab_size": config.padded_vocab_size,
        "hidden_size": config.d_model,
        "num_hidden_layers": config.n_layer,
        "residual_in_fp32": config.residual_in_fp32,
        "tie_word_embeddings": config.tie_embeddings,
        "conv_kernel": settings.get("d_conv", 4),
        "expand": settings.get("expand", 2),
        "bos_token_id": 0,
        "eos_token_id": 0,
        "pad_token_id": 0,
    }
    if config.layer == "Mamba1":
        return MambaConfig(state_size=settings.get("d_state", 16), architectures=["MambaForCausalLM"], **fields)
    headdim = settings.get("headdim", 64)
    return Mamba2Config(
        state_size=settings.get("d_state", 128),
        head_dim=headdim,
        num_heads=fields["expand"] * config.d_model // headdim,
        n_groups=settings.get("ngroups", 1),
        chunk_size=settings.get("chunk_size", 256),
        architectures=["Mamba2ForCausalLM"],
        **fields,
    )


def write(source: Path, target: Path) -> Path:
    """Write the checkpoint of `source`, and a tokenizer that lies beside it, to the folder `target`; returns it."""
    from safetensors.torch import save_file

    config, found, _ = read_checkpoint(source)
    tensors = {key: stored.tensor for key, stored in found.items()}
    target.mkdir()
    transformers_config(config).save_pretrained(target)
    tensors[RENAMED] = tensors.pop(EMBEDDING)
    if config.tie_embeddings:
        del tensors[HEAD]
    save_file(tensors, target / "model.safetensors", metadata={"format": "pt"})
    for path in source.glob("tokenizer*"):
        shutil.copy(path, target)
    return target


def drop_head(folder: Path) -> None:
    """Leave the tied lm_head out of the weight file of a state-spaces checkpoint."""
    from safetensors.torch import load_file, save_file

    tensors = load_file(folder / "model.safetensors")
    del tensors[HEAD]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
