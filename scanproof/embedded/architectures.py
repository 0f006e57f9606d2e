"""The architectures of the stand-ins, one for each family of published checkpoints."""

from __future__ import annotations

import json
from collections.abc import Iterator
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
"""Stand-in -> fields of StateSpacesConfig; chunks are short, so that nearly every prompt has more than one."""

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
"""Fields of transformers' GPTNeoXConfig, as in Pythia."""

_LLAMA: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": D_MODEL,
    "intermediate_size": 96,
    "num_hidden_layers": 4,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-5,
    "hidden_act": "silu",
    "max_position_embeddings": 2048,
    "initializer_range": 0.02,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "rope_theta": 500000.0,
}
HYBRIDS: dict[str, dict[str, Any]] = {
    # As MambaInLlama_0_50: each head of x and B is used four times, embeddings are not tied.
    "mamba-hybrid-tiny": {
        "llama": {**_LLAMA, "num_attention_heads": 8, "tie_word_embeddings": False, "rope_scaling": None},
        "d_inner": 64,
        "d_xb": 16,
        "attn_layers": (1, 3),
        "ssm": {"d_state": 8},
    },
    # As Llama3.2-Mamba2-3B: each is used three times, rotary frequencies scaled as in Llama 3, tied embeddings.
    "mamba2-hybrid-tiny": {
        "llama": {
            **_LLAMA,
            "hidden_size": 72,
            "num_attention_heads": 6,
            "head_dim": 16,
            "tie_word_embeddings": True,
            "rope_scaling": {
                "rope_type": "llama3",
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 256,
            },
        },
        "d_inner": 96,
        "d_xb": 32,
        "attn_layers": (1, 3),
        "ssm": {"ngroups": 6, "d_state": 16, "chunk_size": 16},
    },
}
"""Stand-in -> fields of HybridConfig; where `ssm` has `ngroups`, the mixers are Mamba-2."""

MEGATRON_HYBRIDS: dict[str, dict[str, Any]] = {
    # As mamba2-hybrid-8b: all three kinds of layers, two query heads per key head, two groups of B and C.
    "megatron-hybrid-tiny": {
        "hybrid_override_pattern": "M-M*-M-",
        "hidden_size": D_MODEL,
        "num_attention_heads": 4,
        "num_query_groups": 2,
        "kv_channels": 16,
        "ffn_hidden_size": 2 * D_MODEL,
        "max_position_embeddings": 2048,
        "norm_epsilon": 1e-5,
        "mamba_state_dim": 32,
        # Eight heads: causal_conv1d refuses a slice of a projection whose width is no multiple of 8.
        "mamba_head_dim": 16,
        "mamba_num_groups": 2,
        "mamba_expand": 2,
        "mamba_conv": 4,
        "mamba_chunk_size": 16,
    },
}
"""Stand-in -> fields of `megatron.architecture.Architecture`."""


HALVED = ("megatron-hybrid-tiny",)
"""Stand-ins whose Mamba-2 heads are twice as wide in their first steps of training; then each becomes two."""


def make_blank(name: str, *, whole_heads: bool = False) -> Any:
    """The stand-in `name` with random float32 weights from torch's current seed; `model(ids).logits` are its logits.

    Args:
        whole_heads: with the heads that it has before they are halved.
    """
    if name == "pythia-tiny":
        from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

        return GPTNeoXForCausalLM(GPTNeoXConfig(**PYTHIA))
    if name in HYBRIDS:
        from scanproof.models.mamba_in_llama.config import HybridConfig, Mamba1Settings, Mamba2Settings
        from scanproof.models.mamba_in_llama.model import HybridLlama

        settings = Mamba2Settings if "ngroups" in HYBRIDS[name]["ssm"] else Mamba1Settings
        return HybridLlama(HybridConfig(**{**HYBRIDS[name], "ssm": settings(**HYBRIDS[name]["ssm"])}))
    if name in MEGATRON_HYBRIDS:
        from scanproof.embedded import megatron_folder
        from scanproof.models.megatron.architecture import Architecture

        fields = MEGATRON_HYBRIDS[name]
        if whole_heads and name in HALVED:
            fields = {**fields, "mamba_head_dim": 2 * fields["mamba_head_dim"]}
        return megatron_folder.make_blank(Architecture(**fields), VOCABULARY)
    from scanproof.models.language_model import StateSpacesLM
    from scanproof.models.layout import StateSpacesConfig

    return StateSpacesLM(StateSpacesConfig(d_model=D_MODEL, vocab_size=VOCABULARY, **STATE_SPACES[name]))


def finish_heads(name: str, model: Any) -> Any:
    """The model with each Mamba-2 head cut in two, which computes the same; unchanged where heads are not halved."""
    if name not in HALVED:
        return model
    finished = make_blank(name)
    finished.load_state_dict(dict(_halve_heads(model, finished)))
    return finished


def _halve_heads(model: Any, finished: Any) -> Iterator[tuple[str, Any]]:
    """Name and weight of `finished`: the two halves of a head have its decay, its D and its step size."""
    import torch

    shapes = {key: value.shape for key, value in finished.state_dict().items()}
    for key, weight in model.state_dict().items():
        # Of in_proj, only the last rows are one per head; all other weights with another length are.
        heads = shapes[key][0] - len(weight)
        kept, per_head = weight[: len(weight) - heads], weight[len(weight) - heads :]
        yield key, torch.cat([kept, per_head.repeat_interleave(2, dim=0)])


def save(model: Any, folder: Path, dtype: torch.dtype) -> None:
    """Write a checkpoint in the layout of its family; `folder` has the stand-in's name."""
    from scanproof.models.language_model import StateSpacesLM
    from scanproof.models.loading import save as save_state_spaces
    from scanproof.models.mamba_in_llama.loading import save as save_hybrid
    from scanproof.models.mamba_in_llama.model import HybridLlama

    if isinstance(model, StateSpacesLM):
        save_state_spaces(model, folder, dtype)
    elif isinstance(model, HybridLlama):
        save_hybrid(model, folder, dtype)
    elif folder.name in MEGATRON_HYBRIDS:
        from scanproof.embedded import megatron_folder
        from scanproof.models.megatron.architecture import Architecture

        megatron_folder.save(model, Architecture(**MEGATRON_HYBRIDS[folder.name]), folder, dtype)
    else:
        model.to(dtype).save_pretrained(folder)
        (folder / "generation_config.json").unlink(missing_ok=True)
        (folder / "model.safetensors").chmod(0o644)
        (folder / "config.json").write_text(pythia_config(dtype), encoding="utf-8", newline="\n")


def pythia_config(dtype: torch.dtype) -> str:
    """Text of config.json with the keys of the published Pythia checkpoints, which transformers 4 and 5 can read."""
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
