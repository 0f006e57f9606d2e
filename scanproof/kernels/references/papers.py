"""The operations of Mamba in plain PyTorch, written to be read beside the papers.

Every function computes in the dtype of its arguments without any cast, float64 included.
All functions are differentiable.

Letters: b batch, l seqlen, d channels (d_inner), n dstate, h nheads, p headdim, g ngroups.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from scanproof.kernels.references.precision import Hold, exact

CHUNK = 16
"""Positions per chunk of `selective_scan` unless the caller says otherwise."""


def causal_conv1d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    activation: str | None = None,
    initial_state: Tensor | None = None,
) -> Tensor:
    """Depthwise convolution over time of each position and the w - 1 positions before it.

    y[t] = sum over k of weight[k] x[t - (w - 1) + k] + bias, then the activation.

    Args:
        x: (b, d, l).
        weight: (d, w); the last tap multiplies the position itself.
        bias: (d,).
        activation: None, or `silu` (also called `swish`).
        initial_state: (b, d, w - 1), the inputs before the first one; zeros if None.

    Returns:
        (b, d, l).

    Raises:
        ValueError: unknown activation.
    """
    if activation not in (None, "silu", "swish"):
        raise ValueError(f"activation {activation!r} is not known; use None, 'silu' or 'swish'")
    width, seqlen = weight.shape[-1], x.shape[-1]
    before = x.new_zeros(*x.shape[:-1], width - 1) if initial_state is None else initial_state
    padded = torch.cat([before, x], dim=-1)
    y = sum(weight[:, k, None] * padded[..., k : k + seqlen] for k in range(width))
    if bias is not None:
        y = y + bias[:, None]
    assert isinstance(y, Tensor)
    return y if activation is None else F.silu(y)


def selective_scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = False,
    *,
    initial_state: Tensor | None = None,
    chunk_size: int = CHUNK,
) -> tuple[Tensor, Tensor]:
    """The selective state space model of Mamba (arXiv 2312.00752, equations 2a, 2b and algorithm 2).

    h[t] = exp(delta[t] A) h[t - 1] + delta[t] B[t] u[t];  y[t] = C[t] h[t] + D u[t];  times silu(z) if given.
    The sequence is processed in chunks; the state at the end of a chunk is the start of the next.

    Args:
        u: (b, d, l), the input.
        delta: (b, d, l), the step sizes before bias and softplus.
        A: (d, n), with a negative real part.  If it is complex, so are B and C, and y is 2 Re(C h) in place of C h.
        B: (b, n, l).
        C: (b, n, l).
        D: (d,), the skip.
        z: (b, d, l), the gate.
        delta_bias: (d,), added to delta first.
        delta_softplus: whether delta goes through softplus.
        initial_state: (b, d, n); zeros if None.
        chunk_size: positions per chunk; it changes the result only by rounding.

    Returns:
        y (b, d, l), and the last state (b, d, n): without a position, the initial one.
    """
    if delta_bias is not None:
        delta = delta + delta_bias[:, None]
    if delta_softplus:
        delta = F.softplus(delta)
    state = A.new_zeros(*u.shape[:2], A.shape[-1]) if initial_state is None else initial_state
    if u.shape[-1] == 0:
        return u, state
    outputs = []
    chunks = zip(*(torch.split(part, chunk_size, -1) for part in (u, delta, B, C)), strict=True)
    for u_k, delta_k, B_k, C_k in chunks:
        y, state = _scan_chunk(u_k, delta_k, A, B_k, C_k, state)
        outputs.append(y)
    y = torch.cat(outputs, dim=-1)
    if D is not None:
        y = y + D[:, None] * u
    if z is not None:
        y = y * F.silu(z)
    return y, state


def _scan_chunk(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    """One chunk of `selective_scan` from a given state; inside, time is the first axis, for speed."""
    delta, u = delta.permute(2, 0, 1), u.permute(2, 0, 1)
    B, C = B.permute(2, 0, 1), C.permute(2, 0, 1)
    decay = torch.exp(delta[..., None] * A)
    inflow = (delta * u)[..., None] * B[:, :, None]
    states = []
    for decay_t, inflow_t in zip(decay, inflow, strict=True):
        state = decay_t * state + inflow_t
        states.append(state)
    y = torch.matmul(torch.stack(states), C[..., None]).squeeze(-1)
    y = 2 * y.real if y.is_complex() else y
    return y.permute(1, 2, 0), state


def ssd(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    chunk_size: int,
    D: Tensor | None = None,
    *,
    initial_state: Tensor | None = None,
    hold: Hold = exact,
) -> tuple[Tensor, Tensor]:
    """State space duality (Mamba-2, arXiv 2405.21060, section 6): quadratic within chunks, recurrent between them.

    Args:
        x: (b, l, h, p), the input.
        dt: (b, l, h), positive: after bias and softplus.
        A: (h,), negative.
        B: (b, l, g, n); head i belongs to group i // (h / g).
        C: (b, l, g, n).
        chunk_size: positions per chunk; it changes the result only by rounding.
        D: (h,) or (h, p), the skip.
        initial_state: (b, h, p, n); zeros if None.
        hold: rounds operands of matrix products; see `scanproof.kernels.references.precision`.

    Returns:
        y (b, l, h, p), and the last state (b, h, p, n): without a position, the initial one.
    """
    batch, _, heads, headdim = x.shape
    state = x.new_zeros(batch, heads, headdim, B.shape[-1]) if initial_state is None else initial_state
    if x.shape[1] == 0:
        return x, state
    outputs = []
    chunks = zip(*(torch.split(part, chunk_size, 1) for part in (x, dt, B, C)), strict=True)
    for x_k, dt_k, B_k, C_k in chunks:
        y, state = _ssd_chunk(x_k, dt_k, A, B_k, C_k, state, hold)
        outputs.append(y)
    y = torch.cat(outputs, dim=1)
    return (y if D is None else y + _skip(D) * x), state


def _ssd_chunk(
    x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, state: Tensor, hold: Hold
) -> tuple[Tensor, Tensor]:
    """One chunk of `ssd` from a given state."""
    length, heads = dt.shape[1:]
    repeats = heads // B.shape[2]
    x = (x * dt[..., None]).transpose(1, 2)
    # The logarithm of the decay from the start of the chunk up to and including each position.
    log_decay = torch.cumsum((dt * A).transpose(1, 2), dim=-1)
    B, C = hold(B).transpose(1, 2), hold(C).transpose(1, 2)
    scores = (C @ B.mT).repeat_interleave(repeats, dim=1)
    future = torch.ones(length, length, dtype=torch.bool, device=x.device).triu(1)
    # Masked before exp, because above the diagonal the difference is positive and exp may overflow.
    between = (log_decay[..., :, None] - log_decay[..., None, :]).masked_fill(future, float("-inf"))
    B, C = B.repeat_interleave(repeats, dim=1), C.repeat_interleave(repeats, dim=1)
    within = hold(scores * torch.exp(between)) @ hold(x)
    carried = torch.exp(log_decay)[..., None] * (C @ hold(state).mT)
    to_end = torch.exp(log_decay[..., -1:] - log_decay)
    last = torch.exp(log_decay[..., -1])[..., None, None] * state + hold(x * to_end[..., None]).mT @ B
    return (within + carried).transpose(1, 2), last


def ssd_recurrence(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    *,
    initial_state: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """The same function as `ssd`, computed one position at a time (arXiv 2405.21060, equation 1); same arguments.

    h[t] = exp(dt[t] A) h[t - 1] + dt[t] x[t] B[t];  y[t] = h[t] C[t] + D x[t].
    """
    batch, seqlen, heads, headdim = x.shape
    B = B.repeat_interleave(heads // B.shape[2], dim=2)
    C = C.repeat_interleave(heads // C.shape[2], dim=2)
    state = x.new_zeros(batch, heads, headdim, B.shape[-1]) if initial_state is None else initial_state
    outputs = []
    for t in range(seqlen):
        decay = torch.exp(dt[:, t] * A)[..., None, None]
        state = decay * state + (dt[:, t, :, None] * x[:, t])[..., None] * B[:, t, :, None]
        outputs.append((state * C[:, t, :, None]).sum(-1))
    y = torch.stack(outputs, dim=1)
    return (y if D is None else y + _skip(D) * x), state


def _skip(D: Tensor) -> Tensor:
    """D in a shape that multiplies (b, l, h, p)."""
    return D[:, None] if D.dim() == 1 else D


def rms_norm(x: Tensor, weight: Tensor, eps: float = 1e-5, group_size: int | None = None) -> Tensor:
    """x / sqrt(mean(x^2) + eps) * weight, the mean over groups of `group_size` channels (all if None).

    Args:
        x: (..., d).
        weight: (d,).

    Returns:
        (..., d).
    """
    groups = torch.unflatten(x, -1, (-1, group_size or x.shape[-1]))
    scale = torch.rsqrt(groups.square().mean(dim=-1, keepdim=True) + eps)
    return (groups * scale).flatten(-2) * weight


def gated_rms_norm(
    x: Tensor,
    z: Tensor,
    weight: Tensor,
    eps: float = 1e-5,
    group_size: int | None = None,
    norm_before_gate: bool = False,
) -> Tensor:
    """The norm at the end of a Mamba-2 block: rms_norm(x silu(z)), or rms_norm(x) silu(z).

    Args:
        x: (..., d).
        z: (..., d), the gate.
        weight: (d,).
        group_size: as in `rms_norm`.
        norm_before_gate: rms_norm(x) silu(z) if true, else rms_norm(x silu(z)).

    Returns:
        (..., d).
    """
    if norm_before_gate:
        return rms_norm(x, weight, eps, group_size) * F.silu(z)
    return rms_norm(x * F.silu(z), weight, eps, group_size)
