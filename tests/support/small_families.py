"""Tiny random checkpoints of the families that are pruned, in their published layouts, with a real tokenizer."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from scanproof.embedded import MIRROR
from scanproof.evaluation.worker.checkpoint_check import require_complete_checkpoint
from scanproof.models import register

LAYERS, VOCABULARY = 5, 1280
TOKENIZER = MIRROR / "scanproof" / "pythia-tiny"
_COMMON = {
    "hidden_size": 32,
    "num_hidden_layers": LAYERS,
    "vocab_size": VOCABULARY,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "initializer_range": 0.2,
}
_ATTENTION = _COMMON | {"intermediate_size": 48, "num_attention_heads": 4, "max_position_embeddings": 256}
CONFIGS: dict[str, dict[str, Any]] = {
    "llama": _ATTENTION | {"num_key_value_heads": 2, "tie_word_embeddings": True},
    "mistral": _ATTENTION | {"num_key_value_heads": 2, "sliding_window": 6},
    "gpt_neox": _ATTENTION,
    # Says per layer what kind it is.
    "qwen2": _ATTENTION
    | {
        "num_key_value_heads": 2,
        "use_sliding_window": True,
        "sliding_window": 6,
        "layer_types": ["full_attention", "sliding_attention", "full_attention", "full_attention", "sliding_attention"],
    },
    "mamba": _COMMON | {"state_size": 8, "pad_token_id": 0, "tie_word_embeddings": True},
    "mamba2": _COMMON
    | {"state_size": 16, "num_heads": 4, "head_dim": 16, "n_groups": 1, "chunk_size": 8, "pad_token_id": 0},
}
PREFIXES = {
    "llama": "model.layers",
    "mistral": "model.layers",
    "gpt_neox": "gpt_neox.layers",
    "qwen2": "model.layers",
    "mamba": "backbone.layers",
    "mamba2": "backbone.layers",
    "state-spaces-mamba": "backbone.layers",
    "state-spaces-mamba2attn": "backbone.layers",
}
FAMILIES = tuple(PREFIXES)
STATE_SPACES: dict[str, dict[str, Any]] = {
    "state-spaces-mamba": {"ssm_cfg": {"d_state": 8}},
    "state-spaces-mamba2attn": {
        "ssm_cfg": {"layer": "Mamba2", "d_state": 16, "headdim": 16, "chunk_size": 8},
        "attn_layer_idx": [1, 4],
        "attn_cfg": {"causal": True, "d_conv": 4, "head_dim": 8, "num_heads": 4, "rotary_emb_dim": 4},
    },
}


def write(folder: Path, family: str) -> Path:
    """A checkpoint of `family` in float32 with safetensors weights; returns its folder."""
    if family in STATE_SPACES:
        _write_state_spaces(folder, family)
    else:
        _write_transformers(folder, family)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(TOKENIZER / name, folder)
    return folder


def _write_transformers(folder: Path, family: str) -> None:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(3)
    model: Any = AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **CONFIGS[family]))
    with torch.no_grad():
        for name, value in model.named_parameters():
            if name.endswith(("norm.weight", ".D", "norm_f.weight", "norm.bias")):
                value.add_(0.3 * torch.randn_like(value))
    model.save_pretrained(folder)


def _write_state_spaces(folder: Path, family: str) -> None:
    import torch

    from scanproof.models import language_model, loading
    from scanproof.models.layout import StateSpacesConfig

    torch.manual_seed(3)
    config = StateSpacesConfig(d_model=32, n_layer=LAYERS, vocab_size=VOCABULARY, **STATE_SPACES[family])
    model = language_model.StateSpacesLM(config)
    with torch.no_grad():
        for value in model.parameters():
            value.add_(0.1 * torch.randn_like(value))
    loading.save(model, folder, torch.float32)


def shallower(source: Path, target: Path, family: str, start: int, end: int) -> Path:
    """The checkpoint that a removal has to equal: the other layers' tensors under new numbers, a config with fewer."""
    from safetensors.numpy import load_file, save_file

    shutil.copytree(source, target)
    prefix = PREFIXES[family].split(".")
    place, removed = len(prefix), end - start + 1
    kept = {}
    for key, value in load_file(source / "model.safetensors").items():
        parts = key.split(".")
        if parts[:place] == prefix:
            layer = int(parts[place])
            if start <= layer <= end:
                continue
            parts[place] = str(layer - removed if layer > end else layer)
        kept[".".join(parts)] = value
    save_file(kept, target / "model.safetensors", metadata={"format": "pt"})
    _edit_config(target / "config.json", start, end)
    return target


def _edit_config(path: Path, start: int, end: int) -> None:
    config = json.loads(path.read_text())
    removed = end - start + 1
    count = "n_layer" if "n_layer" in config else "num_hidden_layers"
    config[count] -= removed
    if "attn_layer_idx" in config:
        config["attn_layer_idx"] = [
            layer - removed if layer > end else layer for layer in config["attn_layer_idx"] if not start <= layer <= end
        ]
    if "layer_types" in config:
        del config["layer_types"][start : end + 1]
    path.write_text(json.dumps(config))


def is_state_spaces(folder: Path) -> bool:
    return "ssm_cfg" in (folder / "config.json").read_text()


def pruned(folder: Path, method: str = "personalized", **arguments: Any) -> Any:
    """The pruned model, made as the worker makes it."""
    register()
    from lm_eval.api.registry import get_model

    name = "depth_pruned_mamba_ssm" if is_state_spaces(folder) else "depth_pruned"
    options = {"pretrained": str(folder), "method": method, "dtype": "float64"} | arguments
    with require_complete_checkpoint():
        return get_model(name).create_from_arg_obj(options, {"batch_size": 2, "device": "cpu"})
