"""MambaInLlama in float64, position by position, from the papers' formulas; it shares no code with scanproof.

Takes the published keys and the fields of the two config files; returns logits.  Letters as in arXiv 2312.00752 and
2405.21060; the grouped heads and the doubled bias are those of arXiv 2408.15237 and its published code.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

Array = Any  # NDArray[np.float64]; numpy's own annotations give up at `@` and `.T`
Weights = Mapping[str, Array]


def logits(weights: Weights, mamba: Mapping[str, Any], llama: Mapping[str, Any], ids: list[int]) -> Array:
    """(l, vocabulary) of one sequence."""
    h = weights["model.embed_tokens.weight"][ids]
    for i in range(llama["num_hidden_layers"]):
        layer = below(weights, f"model.layers.{i}.")
        u = rms(h, layer["input_layernorm.weight"], llama["rms_norm_eps"])
        if i in mamba["attn_layers"]:
            h = h + attention(below(layer, "self_attn."), llama, u)
        else:
            second = "ngroups" in mamba["ssm_cfg"]
            h = h + (mamba2 if second else mamba1)(below(layer, "mamba."), mamba, u)
        u = rms(h, layer["post_attention_layernorm.weight"], llama["rms_norm_eps"])
        h = (
            h
            + (silu(u @ layer["mlp.gate_proj.weight"].T) * (u @ layer["mlp.up_proj.weight"].T))
            @ layer["mlp.down_proj.weight"].T
        )
    h = rms(h, weights["model.norm.weight"], llama["rms_norm_eps"])
    head = weights.get("lm_head.weight", weights["model.embed_tokens.weight"])
    return h @ head.T


def mamba1(p: Weights, mamba: Mapping[str, Any], u: Array, bias_times: int = 2) -> Array:
    """delta = softplus(W dt + 2 b); h <- exp(delta A) h + delta B x; y = C h + D x; out(y silu(z))."""
    n = mamba["ssm_cfg"].get("d_state", 16)
    r = mamba["d_inner"] // mamba["d_xb"]
    x, z, C = u @ p["in_proj_x.weight"].T, u @ p["in_proj_z.weight"].T, u @ p["C_proj.weight"].T
    B = u @ p["B_proj.weight"].T
    dt = (u @ p["dt_proj_down.weight"].T) @ p["dt_proj.weight"].T
    delta = softplus(dt + bias_times * p["dt_proj.bias"])
    x = conv(repeated(x, n, r), p["conv1d.weight"][:, 0], p["conv1d.bias"])
    B = repeated(B, n, r)
    A = -np.exp(p["A_log"])
    out = np.zeros_like(x)
    for d in range(mamba["d_inner"]):
        own = slice(d // n * n, d // n * n + n)
        state = np.zeros(n)
        for t in range(len(u)):
            state = np.exp(delta[t, d] * A[d]) * state + delta[t, d] * B[t, own] * x[t, d]
            out[t, d] = C[t, own] @ state + p["D"][d] * x[t, d]
    return (out * silu(z)) @ p["out_proj.weight"].T


def mamba2(p: Weights, mamba: Mapping[str, Any], u: Array) -> Array:
    """Per head: delta = softplus(dt + b); H <- exp(delta a) H + delta x B^T; y = H C + D x; norm of y silu(z)."""
    heads, inner, k = mamba["ssm_cfg"]["ngroups"], mamba["d_inner"], mamba["d_xb"]
    n, r = inner // heads, inner // k
    z, xBC, dt = np.split(u @ p["in_proj.weight"].T, [inner, 2 * inner + 2 * k], axis=1)
    xBC = conv(xBC, p["conv1d.weight"][:, 0], p["conv1d.bias"])
    x, B, C = repeated(xBC[:, :k], n, r), repeated(xBC[:, k : 2 * k], n, r), xBC[:, 2 * k :]
    delta, a = softplus(dt + p["dt_bias"]), -np.exp(p["A_log"])
    out = np.zeros_like(x)
    for g in range(heads):
        own = slice(g * n, g * n + n)
        state = np.zeros((n, n))
        for t in range(len(u)):
            state = math.exp(delta[t, g] * a[g]) * state + delta[t, g] * np.outer(x[t, own], B[t, own])
            y = (state @ C[t, own] + p["D"][g] * x[t, own]) * silu(z[t, own])
            out[t, own] = y / math.sqrt((y @ y) / n + 1e-5) * p["norm.weight"][own]
    return out @ p["out_proj.weight"].T


def attention(p: Weights, llama: Mapping[str, Any], u: Array) -> Array:
    """Causal attention with rotary positions; heads in a row share a key and value head."""
    heads, kv = llama["num_attention_heads"], llama["num_key_value_heads"]
    size = len(p["q_proj.weight"]) // heads
    q, k, v = (
        (u @ p[f"{name}_proj.weight"].T).reshape(len(u), count, size)
        for name, count in (("q", heads), ("k", kv), ("v", kv))
    )
    turn = np.exp(1j * np.outer(np.arange(len(u)), frequencies(llama, size)))[:, None]
    half = size // 2
    q, k = (np.concatenate([(w := (x[..., :half] + 1j * x[..., half:]) * turn).real, w.imag], -1) for x in (q, k))
    out = np.zeros((len(u), heads, size))
    for head in range(heads):
        shared = head // (heads // kv)
        for t in range(len(u)):
            scores = k[: t + 1, shared] @ q[t, head] / math.sqrt(size)
            share = np.exp(scores - scores.max())
            out[t, head] = (share / share.sum()) @ v[: t + 1, shared]
    return out.reshape(len(u), -1) @ p["o_proj.weight"].T


def frequencies(llama: Mapping[str, Any], size: int) -> Array:
    """theta^(-2i/size), and Llama 3's scaling: long waves slower by `factor`, those between blended."""
    plain = llama["rope_theta"] ** (-np.arange(0, size, 2) / size)
    scaling = llama.get("rope_scaling")
    if not scaling:
        return plain
    if scaling["rope_type"] == "linear":
        return plain / scaling["factor"]
    found = []
    for frequency in plain:
        turns = scaling["original_max_position_embeddings"] * frequency / (2 * math.pi)
        low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
        share = min(1.0, max(0.0, (turns - low) / (high - low)))
        found.append(share * frequency + (1 - share) * frequency / scaling["factor"])
    return np.array(found)


def conv(x: Array, weight: Array, bias: Array) -> Array:
    """SiLU of the causal depthwise convolution of (l, channels); the last tap meets the present."""
    width = weight.shape[1]
    out = np.zeros_like(x)
    for t in range(len(x)):
        for tap in range(width):
            if (source := t - (width - 1) + tap) >= 0:
                out[t] += weight[:, tap] * x[source]
    return silu(out + bias)


def repeated(x: Array, n: int, r: int) -> Array:
    """(l, heads n) -> (l, heads r n): each head r times in a row."""
    heads = [x[:, start : start + n] for start in range(0, x.shape[1], n)]
    return np.concatenate([head for head in heads for _ in range(r)], axis=1)


def rms(x: Array, weight: Array, eps: float) -> Array:
    """Root mean square norm over the last axis."""
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + eps) * weight


def silu(x: Array) -> Array:
    return x / (1 + np.exp(-x))


def softplus(x: Array) -> Array:
    return np.logaddexp(0, x)


def below(weights: Weights, prefix: str) -> dict[str, Array]:
    """The entries under a prefix, without it."""
    return {key.removeprefix(prefix): value for key, value in weights.items() if key.startswith(prefix)}
