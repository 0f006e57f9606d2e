"""A random hybrid in the folder layout of NVIDIA's Megatron checkpoints, and the same model in float64."""

from __future__ import annotations

import enum
import io
import math
import random
import sys
import types
from argparse import Namespace
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

PATTERN = "M-M*M-*-"
ROWS = 512
SIZES: dict[str, Any] = {
    "hybrid_override_pattern": PATTERN,
    "num_layers": len(PATTERN),
    "hidden_size": 24,
    "num_attention_heads": 6,
    "group_query_attention": True,
    "num_query_groups": 2,
    "kv_channels": 8,
    "ffn_hidden_size": 40,
    "max_position_embeddings": 512,
    "norm_epsilon": 1e-5,
    "mamba_state_dim": 4,
    "mamba_head_dim": 8,
    "mamba_num_groups": 2,
}
OTHERS: dict[str, Any] = {
    "position_embedding_type": "none",
    "apply_layernorm_1p": False,
    "squared_relu": False,
    "tensor_model_parallel_size": 1,
    "pipeline_model_parallel_size": 1,
    "swiglu": False,
}
WEIGHTS = Path("release/mp_rank_00/model_optim_rng.pt")
TOKENIZER = "small_256k.model"


def shapes(sizes: Mapping[str, Any] = SIZES, rows: int = ROWS) -> dict[str, tuple[int, ...]]:
    """Megatron's keys and shapes, written out from its code."""
    hidden, inner = sizes["hidden_size"], 2 * sizes["hidden_size"]
    heads, states = inner // sizes["mamba_head_dim"], sizes["mamba_num_groups"] * sizes["mamba_state_dim"]
    groups, ffn = sizes["num_query_groups"], sizes["ffn_hidden_size"]
    attention = sizes["num_attention_heads"] * sizes["kv_channels"]
    blocks: dict[str, dict[str, tuple[int, ...]]] = {
        "M": {
            "norm.weight": (hidden,),
            "mixer.dt_bias": (heads,),
            "mixer.A_log": (heads,),
            "mixer.D": (heads,),
            "mixer.in_proj.weight": (2 * inner + 2 * states + heads, hidden),
            "mixer.conv1d.weight": (inner + 2 * states, 1, 4),
            "mixer.conv1d.bias": (inner + 2 * states,),
            "mixer.norm.weight": (inner,),
            "mixer.out_proj.weight": (hidden, inner),
        },
        "*": {
            "self_attention.linear_proj.weight": (hidden, attention),
            "self_attention.linear_qkv.layer_norm_weight": (hidden,),
            "self_attention.linear_qkv.weight": (attention + 2 * groups * sizes["kv_channels"], hidden),
        },
        "-": {
            "mlp.linear_fc1.layer_norm_weight": (hidden,),
            "mlp.linear_fc1.weight": (ffn, hidden),
            "mlp.linear_fc2.weight": (hidden, ffn),
        },
    }
    found: dict[str, tuple[int, ...]] = {"embedding.word_embeddings.weight": (rows, hidden)}
    for index, letter in enumerate(sizes["hybrid_override_pattern"]):
        found |= {f"decoder.layers.{index}.{key}": shape for key, shape in blocks[letter].items()}
    return found | {"decoder.final_norm.weight": (hidden,), "output_layer.weight": (rows, hidden)}


def tensors(sizes: Mapping[str, Any] = SIZES, rows: int = ROWS, dtype: str = "float32") -> dict[str, Any]:
    """Random weights of a size at which every layer and every term moves the logits."""
    import torch

    draw = torch.Generator().manual_seed(3)
    made = {}
    for key, shape in shapes(sizes, rows).items():
        value = torch.randn(shape, generator=draw)
        if key.endswith(("norm.weight", "layer_norm_weight", ".D")):
            value = 1 + 0.3 * value
        elif key.endswith("A_log"):
            value = torch.log(1 + 15 * torch.rand(shape, generator=draw))
        elif key.endswith("dt_bias"):
            # Some steps lie below 0.001, where transformers' default would clamp them.
            value = 2 * value - 6
        elif len(shape) == 2 and not key.startswith("embedding"):
            value = value / math.sqrt(shape[1])
        made[key] = value.to(getattr(torch, dtype))
    return made


def write(
    folder: Path, content: Mapping[str, Any] | None = None, args: Mapping[str, Any] | None = None, **other: Any
) -> Path:
    """Write a checkpoint folder as published: tracker, pickle with what Megatron keeps beside it, tokenizer."""
    import numpy as np
    import torch

    path = folder / WEIGHTS
    path.parent.mkdir(parents=True, exist_ok=True)
    (folder / "latest_checkpointed_iteration.txt").write_text("release")
    (folder / "config.json").write_text('{"note": "no transformers config"}')
    model = dict(tensors() if content is None else content)
    model["decoder.layers.1.mlp.linear_fc1._extra_state"] = io.BytesIO(b"fp8")
    with megatron_enum() as kind:
        stored = Namespace(**(dict(SIZES, **OTHERS) if args is None else args), params_dtype=torch.bfloat16, kind=kind)
        rng = [{"np_rng_state": ("MT19937", np.arange(4, dtype=np.uint32)), "torch_rng_state": torch.get_rng_state()}]
        whole = {"args": stored, "checkpoint_version": 3.0, "iteration": 7, "model": model, "rng_state": rng, **other}
        torch.save(whole, path)
    (folder / TOKENIZER).write_bytes(sentencepiece())
    return folder


@contextmanager
def megatron_enum() -> Iterator[enum.Enum]:
    """A member of an enum that pickles as Megatron's own does; Megatron is not installed."""
    ModelType = enum.Enum("ModelType", ["encoder_or_decoder"], module="megatron.core.enums")
    names = [name for name in ("megatron", "megatron.core", "megatron.core.enums") if name not in sys.modules]
    sys.modules.update({name: types.ModuleType(name) for name in names})
    sys.modules["megatron.core.enums"].ModelType = ModelType  # type: ignore[attr-defined]
    try:
        yield ModelType(1)
    finally:
        for name in names:
            del sys.modules[name]


def sentencepiece(**changes: Any) -> bytes:
    """A byte-pair model like NVIDIA's as far as is known: whitespace kept, digits split, bytes as a last resort."""
    from sentencepiece import SentencePieceTrainer

    draw = random.Random(0)
    words = [
        "the",
        "quick",
        "brown",
        "fox",
        "which",
        "of",
        "these",
        "is",
        "number",
        "list",
        "Question:",
        "Answer:",
        "granite",
        "moon",
        "naïve",
        "東京",
        "123",
        "def",
    ]
    text = [" ".join(draw.choice(words) for _ in range(12)) for _ in range(300)]
    target = io.BytesIO()
    settings: dict[str, Any] = {
        "model_type": "bpe",
        "vocab_size": 360,
        "byte_fallback": True,
        "add_dummy_prefix": False,
        "remove_extra_whitespaces": False,
        "split_digits": True,
        "normalization_rule_name": "identity",
        "minloglevel": 3,
        "num_threads": 1,
    }
    SentencePieceTrainer.train(sentence_iterator=iter(text), model_writer=target, **(settings | changes))
    return target.getvalue()


def logits(weights: Mapping[str, Any], ids: Any, sizes: Mapping[str, Any] = SIZES) -> Any:
    """Logits (b, l, rows) in float64, one position after the other, from Megatron's tensors.

    Waleffe et al., arXiv 2406.07887; Dao and Gu, arXiv 2405.21060, for the Mamba-2 layer.
    """
    import torch

    w = {key: value.to(torch.float64) for key, value in weights.items()}
    x = w["embedding.word_embeddings.weight"][ids]
    for index, letter in enumerate(sizes["hybrid_override_pattern"]):
        part = {
            key.removeprefix(f"decoder.layers.{index}."): value
            for key, value in w.items()
            if key.startswith(f"decoder.layers.{index}.")
        }
        x = x + {"M": _mamba, "*": _attention, "-": _mlp}[letter](part, x, sizes)
    return _norm(x, w["decoder.final_norm.weight"]) @ w["output_layer.weight"].T


def _norm(x: Any, weight: Any) -> Any:
    return x / (x.pow(2).mean(-1, keepdim=True) + 1e-5).sqrt() * weight


def _mlp(w: Mapping[str, Any], x: Any, sizes: Mapping[str, Any]) -> Any:
    up = _norm(x, w["mlp.linear_fc1.layer_norm_weight"]) @ w["mlp.linear_fc1.weight"].T
    return (up * 0.5 * (1 + (up / math.sqrt(2)).erf())) @ w["mlp.linear_fc2.weight"].T


def _attention(w: Mapping[str, Any], x: Any, sizes: Mapping[str, Any]) -> Any:
    import torch

    heads, groups, size = (sizes[name] for name in ("num_attention_heads", "num_query_groups", "kv_channels"))
    mixed = _norm(x, w["self_attention.linear_qkv.layer_norm_weight"]) @ w["self_attention.linear_qkv.weight"].T
    per = heads // groups
    mixed = mixed.view(*x.shape[:2], groups, per + 2, size)
    length, outputs = x.shape[1], []
    for head in range(heads):
        group = mixed[:, :, head // per]
        query, key, value = group[:, :, head % per], group[:, :, per], group[:, :, per + 1]
        scores = query @ key.transpose(1, 2) / math.sqrt(size)
        scores = scores.masked_fill(torch.ones(length, length).triu(1).bool(), -math.inf)
        outputs.append(scores.softmax(-1) @ value)
    return torch.cat(outputs, -1) @ w["self_attention.linear_proj.weight"].T


def _mamba(w: Mapping[str, Any], x: Any, sizes: Mapping[str, Any]) -> Any:
    import torch

    state, size, groups = (sizes[name] for name in ("mamba_state_dim", "mamba_head_dim", "mamba_num_groups"))
    inner, length = 2 * sizes["hidden_size"], x.shape[1]
    heads = inner // size
    mixed = _norm(x, w["norm.weight"]) @ w["mixer.in_proj.weight"].T
    z, mixed, dt = mixed.split([inner, inner + 2 * groups * state, heads], -1)
    padded = torch.cat([mixed.new_zeros(len(x), 3, mixed.shape[-1]), mixed], 1)
    taps = w["mixer.conv1d.weight"][:, 0]
    mixed = sum(padded[:, tap : tap + length] * taps[:, tap] for tap in range(4)) + w["mixer.conv1d.bias"]
    mixed = mixed / (1 + (-mixed).exp())
    u, B, C = mixed.split([inner, groups * state, groups * state], -1)
    u, B, C = (
        u.view(*u.shape[:2], heads, size),
        B.view(*B.shape[:2], groups, state),
        C.view(*C.shape[:2], groups, state),
    )
    dt = (1 + (dt + w["mixer.dt_bias"]).exp()).log()
    memory, outputs = x.new_zeros(len(x), heads, size, state), []
    of_head = [head * groups // heads for head in range(heads)]
    for t in range(length):
        decay = (-dt[:, t] * w["mixer.A_log"].exp()).exp()
        written = (dt[:, t, :, None] * u[:, t])[..., None] * B[:, t, of_head][:, :, None]
        memory = memory * decay[..., None, None] + written
        outputs.append((memory * C[:, t, of_head][:, :, None]).sum(-1) + w["mixer.D"][:, None] * u[:, t])
    y = torch.stack(outputs, 1).flatten(2)
    y = y * z / (1 + (-z).exp())
    grouped = y.unflatten(-1, (groups, inner // groups))
    y = (grouped / (grouped.pow(2).mean(-1, keepdim=True) + 1e-5).sqrt()).flatten(2) * w["mixer.norm.weight"]
    return y @ w["mixer.out_proj.weight"].T
