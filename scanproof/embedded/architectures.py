"""The four stand-ins, one for each family of published checkpoints."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scanproof.embedded.tokenizer import VOCABULARY

if TYPE_CHECKING:
    import torch

D_MODEL = 64

STATE_SPACES: dict[str, dict[str, Any]] = {
    "mamba1-tiny": {"n_layer": 4, "ssm_cfg": {"d_state": 8}},
    "mamba2-tiny": {
        "n_layer": 4,
        "ssm_cfg": {"layer": "Mamba2", "d_state": 32, "headdim": 32, "chunk_size": 16},
    },
    "mamba2attn-tiny": {
        "n_layer": 5,
        "ssm_cfg": {"layer": "Mamba2", "d_state": 32, "headdim": 32, "chunk_size": 16},
        "attn_layer_idx": [2],
        "attn_cfg": {
            "causal": True,
            "d_conv": 4,
            "head_dim": 16,
            "num_heads": 4,
            "out_proj_bias": False,
            "qkv_proj_bias": False,
            "rotary_emb_dim": 8,
        },
    },
}
"""Config fields by name; chunks are short so that nearly every prompt crosses one."""

PYTHIA: dict[str, Any] = {
    "hidden_size": D_MODEL,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 4 * D_MODEL,
    "vocab_size": VOCABULARY,
    "max_position_embeddings": 2048,
    "hidden_act": "gelu",
    "use_parallel_residual": True,
    "tie_word_embeddings": False,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.5},
}
"""transformers' GPTNeoXConfig, as Pythia uses it."""


def blank(name: str) -> Any:
    """A model with random weights from torch's current seed, float32; `model(ids).logits` are its logits."""
    if name == "pythia-tiny":
        from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

        return GPTNeoXForCausalLM(GPTNeoXConfig(**PYTHIA))
    from scanproof.models.language_model import StateSpacesLM
    from scanproof.models.layout import StateSpacesConfig

    return StateSpacesLM(StateSpacesConfig(d_model=D_MODEL, vocab_size=VOCABULARY, **STATE_SPACES[name]))


def save(model: Any, folder: Path, dtype: torch.dtype) -> None:
    """Write the checkpoint in its published layout."""
    from scanproof.models.language_model import StateSpacesLM
    from scanproof.models.loading import save as save_state_spaces

    if isinstance(model, StateSpacesLM):
        save_state_spaces(model, folder, dtype)
    else:
        model.to(dtype).save_pretrained(folder)
        (folder / "generation_config.json").unlink(missing_ok=True)
        (folder / "model.safetensors").chmod(0o644)
        (folder / "config.json").write_text(pythia_config(dtype), encoding="utf-8", newline="\n")


def pythia_config(dtype: torch.dtype) -> str:
    """config.json with the keys of the published Pythia checkpoints, which transformers 4 and 5 both read."""
    fields = {key: value for key, value in PYTHIA.items() if key != "rope_parameters"}
    rope = PYTHIA["rope_parameters"]
    fields |= {
        "architectures": ["GPTNeoXForCausalLM"],
        "initializer_range": 0.02,
        "layer_norm_eps": 1e-5,
        "model_type": "gpt_neox",
        "rotary_emb_base": int(rope["rope_theta"]),
        "rotary_pct": rope["partial_rotary_factor"],
        "torch_dtype": str(dtype).removeprefix("torch."),
        "use_cache": True,
    }
    return json.dumps(fields, indent=2, sort_keys=True) + "\n"
