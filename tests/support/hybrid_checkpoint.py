"""Tiny random MambaInLlama checkpoints in the published layout, written without scanproof's code."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.support.late import Late

if TYPE_CHECKING:
    import safetensors.torch as safetensors
    import torch
else:
    torch, safetensors = Late("torch"), Late("safetensors.torch")

LLAMA3 = {
    "factor": 32.0,
    "high_freq_factor": 4.0,
    "low_freq_factor": 1.0,
    "original_max_position_embeddings": 64,
    "rope_type": "llama3",
}
VOCABULARY = 97
SHAPES: dict[str, dict[str, int]] = {
    # As MambaInLlama_0_50 and Mamba2InLlama_0_50: four query heads for one of keys and values.
    "8b": {"heads": 8, "kv": 2, "tied": 0},
    # As Llama3.2-Mamba2-3B: three, and the head tied to the embedding.
    "3b": {"heads": 6, "kv": 2, "tied": 1},
}


def configs(mixer: str, shape: str, **llama: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """mamba_config.json and config.json."""
    heads, kv, tied = SHAPES[shape].values()
    head = 16 if mixer == "mamba1" else 8
    size = heads * 8
    mamba = {
        "d_model": size,
        "ssm_cfg": {"expand": 1} if mixer == "mamba1" else {"expand": 1, "ngroups": heads, "d_state": head},
        "rms_norm_eps": 1e-5,
        "vocab_size": None,
        "d_inner": heads * head,
        "d_xb": kv * head,
        "intermediate_size": 40,
        "hidden_act": "silu",
        "n_layer": 4,
        "attn_layers": [1, 3],
    }
    base = {
        "_name_or_path": "meta-llama/Meta-Llama-3-8B-Instruct",
        "architectures": ["LlamaForCausalLM"],
        "attention_bias": False,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "hidden_act": "silu",
        "hidden_size": size,
        "initializer_range": 0.02,
        "intermediate_size": 40,
        "max_position_embeddings": 4096,
        "mlp_bias": False,
        "model_type": "llama",
        "num_attention_heads": heads,
        "num_hidden_layers": 4,
        "num_key_value_heads": kv,
        "pretraining_tp": 1,
        "rms_norm_eps": 1e-5,
        "rope_scaling": LLAMA3 if shape == "3b" else None,
        "rope_theta": 500000.0,
        "tie_word_embeddings": bool(tied),
        "torch_dtype": "bfloat16",
        "use_cache": True,
        "vocab_size": VOCABULARY,
    }
    return mamba, base | llama


def shapes(mixer: str, mamba: dict[str, Any], llama: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """Published keys and their shapes."""
    size, inner, xb, wide = mamba["d_model"], mamba["d_inner"], mamba["d_xb"], mamba["intermediate_size"]
    heads, kv, head = llama["num_attention_heads"], llama["num_key_value_heads"], 8
    if mixer == "mamba1":
        rank, state = math.ceil(size / 16), 16
        converted: dict[str, tuple[int, ...]] = {
            "A_log": (inner, state), "D": (inner,), "in_proj_x.weight": (xb, size), "in_proj_z.weight": (inner, size),
            "conv1d.weight": (inner, 1, 4), "conv1d.bias": (inner,), "B_proj.weight": (xb, size),
            "C_proj.weight": (inner, size), "dt_proj_down.weight": (rank, size), "dt_proj.weight": (inner, rank),
            "dt_proj.bias": (inner,), "out_proj.weight": (size, inner),
        }  # fmt: skip
    else:
        channels, groups = inner + 2 * xb, mamba["ssm_cfg"]["ngroups"]
        converted = {
            "A_log": (groups,), "D": (groups,), "dt_bias": (groups,), "norm.weight": (inner,),
            "in_proj.weight": (inner + channels + groups, size), "conv1d.weight": (channels, 1, 4),
            "conv1d.bias": (channels,), "out_proj.weight": (size, inner),
        }  # fmt: skip
    attention: dict[str, tuple[int, ...]] = {
        "q_proj.weight": (heads * head, size), "k_proj.weight": (kv * head, size), "v_proj.weight": (kv * head, size),
        "o_proj.weight": (size, heads * head),
    }  # fmt: skip
    found: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (llama["vocab_size"], size),
        "model.norm.weight": (size,),
    }
    for i in range(mamba["n_layer"]):
        attends = i in mamba["attn_layers"]
        parts: dict[str, tuple[int, ...]] = {f"self_attn.{k}": v for k, v in attention.items()} if attends else {}
        parts |= {} if attends else {f"mamba.{k}": v for k, v in converted.items()}
        parts |= {"mlp.gate_proj.weight": (wide, size), "mlp.up_proj.weight": (wide, size)}
        parts |= {"mlp.down_proj.weight": (size, wide)}
        parts |= {"input_layernorm.weight": (size,), "post_attention_layernorm.weight": (size,)}
        found |= {f"model.layers.{i}.{key}": shape for key, shape in parts.items()}
    if not llama["tie_word_embeddings"]:
        found["lm_head.weight"] = (llama["vocab_size"], size)
    return found


def tensors(mixer: str, mamba: dict[str, Any], llama: dict[str, Any], seed: int = 0) -> dict[str, torch.Tensor]:
    """Random weights large enough that every part of the model shows in the logits."""
    random = torch.Generator().manual_seed(seed)

    def one(key: str, shape: tuple[int, ...]) -> torch.Tensor:
        noise = torch.randn(shape, generator=random, dtype=torch.float64)
        if key.endswith(("norm.weight", ".D")):
            return 1 + 0.3 * noise
        if key.endswith("A_log"):
            return 0.5 + 0.5 * noise
        if "conv1d" in key or key.endswith("bias"):
            return 0.5 * noise
        return noise / math.sqrt(shape[-1]) * (3 if "embed" in key else 1)

    return {key: one(key, shape).float() for key, shape in shapes(mixer, mamba, llama).items()}


def write(
    folder: Path, mixer: str, shape: str, kind: str = "safetensors", dtype: str = "float32", **llama: Any
) -> Path:
    """A checkpoint folder; `kind` is safetensors, bin, or either with `-shards` behind it."""
    mamba, base = configs(mixer, shape, **llama)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "mamba_config.json").write_text(json.dumps(mamba, indent=4))
    (folder / "config.json").write_text(json.dumps(base, indent=2))
    found = {key: value.to(getattr(torch, dtype)) for key, value in tensors(mixer, mamba, base).items()}
    write_weights(folder, found, kind)
    return folder


def write_weights(folder: Path, found: dict[str, torch.Tensor], kind: str) -> None:
    """The weight files alone, with the names that transformers gives them."""
    stem, ending = ("model", "safetensors") if kind.startswith("safetensors") else ("pytorch_model", "bin")
    if not kind.endswith("-shards"):
        _write(folder / f"{stem}.{ending}", found)
        return
    names = [f"{stem}-0000{number}-of-00003.{ending}" for number in (1, 2, 3)]
    where = {key: names[number % 3] for number, key in enumerate(found)}
    for name in names:
        _write(folder / name, {key: value for key, value in found.items() if where[key] == name})
    size = sum(value.nbytes for value in found.values())
    index = {"metadata": {"total_size": size}, "weight_map": where}
    (folder / f"{stem}.{ending}.index.json").write_text(json.dumps(index, indent=2))


def read_weights(folder: Path) -> dict[str, torch.Tensor]:
    """The tensors of `model.safetensors`."""
    return dict(safetensors.load_file(folder / "model.safetensors"))


def _write(path: Path, found: dict[str, torch.Tensor]) -> None:
    if path.suffix == ".safetensors":
        safetensors.save_file(found, path, metadata={"format": "pt"})
    else:
        torch.save(found, path)
