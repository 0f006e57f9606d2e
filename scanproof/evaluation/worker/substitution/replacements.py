"""Second implementations of the stand-ins' operations, in float64 and with other algorithms.

On the CPU a model calls `scanproof.kernels.references.papers`.  Those functions are under suspicion here, so nothing in
this module uses them: recurrences go position by position, sums are PyTorch's.  Arguments, names and results are those
of the replaced functions; results have the dtype of the first argument.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def in_float64(function: Callable[..., Any]) -> Callable[..., Any]:
    """Decorate a function to compute on float64 copies of its floating tensors; results have the first one's dtype."""

    @functools.wraps(function)
    def call(first: Tensor, *args: Any, **kwargs: Any) -> Any:
        named = {name: to_float64(value) for name, value in kwargs.items()}
        results = function(to_float64(first), *(to_float64(value) for value in args), **named)
        if isinstance(results, tuple):
            return tuple(value.to(first.dtype) for value in results)
        return results.to(first.dtype)

    return call


def to_float64(value: Any) -> Any:
    """A floating tensor in float64; anything else as it is."""
    return value.to(torch.float64) if isinstance(value, Tensor) and value.is_floating_point() else value


@in_float64
def causal_conv1d(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, activation: str | None = None,
    initial_state: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """Convolve x (b, d, l) with PyTorch's grouped convolution; zeros or `initial_state` precede the first position."""
    width = weight.shape[-1]
    padded = F.pad(x, (width - 1, 0)) if initial_state is None else torch.cat([initial_state, x], dim=-1)
    y = F.conv1d(padded, weight[:, None], bias, groups=weight.shape[0])
    return y if activation is None else y * torch.sigmoid(y)


@in_float64
def selective_scan(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None = None, z: Tensor | None = None,
    delta_bias: Tensor | None = None, delta_softplus: bool = False, *, initial_state: Tensor | None = None,
    chunk_size: int = 0,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Scan position by position (arXiv 2312.00752, equation 2a): h = exp(dt A) h + dt B u, y = C h + D u."""
    steps = delta if delta_bias is None else delta + delta_bias[:, None]
    steps = torch.log1p(torch.exp(-steps.abs())) + steps.clamp(min=0) if delta_softplus else steps
    state = u.new_zeros(*u.shape[:2], A.shape[-1]) if initial_state is None else initial_state
    outputs = []
    for t in range(u.shape[-1]):
        dt = steps[:, :, t, None]
        state = torch.exp(dt * A) * state + dt * u[:, :, t, None] * B[:, None, :, t]
        outputs.append((state * C[:, None, :, t]).sum(-1))
    y = torch.stack(outputs, dim=-1)
    y = y if D is None else y + u * D[:, None]
    return (y if z is None else y * z * torch.sigmoid(z)), state


@in_float64
def ssd(
    x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, chunk_size: int, D: Tensor | None = None, *,
    initial_state: Tensor | None = None, **unused: Any,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Scan position by position, without chunks (arXiv 2405.21060, equation 1)."""
    batch, length, heads, headdim = x.shape
    per_group = heads // B.shape[2]
    state = x.new_zeros(batch, heads, headdim, B.shape[-1]) if initial_state is None else initial_state
    outputs = []
    for t in range(length):
        inside, outside = (part[:, t].repeat_interleave(per_group, dim=1) for part in (B, C))
        decay = torch.exp(dt[:, t] * A)
        flow = torch.einsum("bh,bhp,bhn->bhpn", dt[:, t], x[:, t], inside)
        state = decay[:, :, None, None] * state + flow
        outputs.append(torch.einsum("bhpn,bhn->bhp", state, outside))
    y = torch.stack(outputs, dim=1)
    if D is not None:
        y = y + x * (D[:, None] if D.dim() == 1 else D)
    return y, state


@in_float64
def rms_norm(x: Tensor, weight: Tensor, eps: float = 1e-5, group_size: int | None = None) -> Tensor:
    """Divide x by its root mean square over each group of channels, and multiply by the weight."""
    return _divide_by_rms(x, eps, group_size) * weight


@in_float64
def gated_rms_norm(
    x: Tensor, z: Tensor, weight: Tensor, eps: float = 1e-5, group_size: int | None = None,
    norm_before_gate: bool = False,
) -> Tensor:  # fmt: skip
    """RMS norm of a Mamba-2 block, applied before or after the gate silu(z)."""
    gate = z * torch.sigmoid(z)
    if norm_before_gate:
        return _divide_by_rms(x, eps, group_size) * weight * gate
    return _divide_by_rms(x * gate, eps, group_size) * weight


def _divide_by_rms(x: Tensor, eps: float, group_size: int | None) -> Tensor:
    size = group_size or x.shape[-1]
    groups = x.reshape(*x.shape[:-1], x.shape[-1] // size, size)
    norms = torch.linalg.vector_norm(groups, dim=-1, keepdim=True)
    return (groups / torch.sqrt(norms * norms / size + eps)).reshape(x.shape)


@in_float64
def scaled_dot_product_attention(
    query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, dropout_p: float = 0.0,
    is_causal: bool = False, scale: float | None = None, enable_gqa: bool = False,
) -> Tensor:  # fmt: skip
    """softmax(q k^T scale + mask) v, all (b, h, l, p), without dropout; one key head may serve several query heads."""
    if key.shape[1] != query.shape[1]:
        key, value = (part.repeat_interleave(query.shape[1] // part.shape[1], dim=1) for part in (key, value))
    scores = torch.einsum("bhqp,bhkp->bhqk", query, key) * (query.shape[-1] ** -0.5 if scale is None else scale)
    if is_causal:
        attn_mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=query.device).tril()
    if attn_mask is not None and attn_mask.dtype == torch.bool:
        scores = scores.masked_fill(~attn_mask, float("-inf"))
    elif attn_mask is not None:
        scores = scores + attn_mask
    weights = torch.exp(scores - scores.amax(dim=-1, keepdim=True))
    return torch.einsum("bhqk,bhkp->bhqp", weights / weights.sum(dim=-1, keepdim=True), value)
