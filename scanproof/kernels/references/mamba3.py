"""References of the Mamba-3 operations (arXiv 2603.15569) with one input per state (siso), as mamba-ssm 2.3.2 has them.

They take mamba-ssm's arguments; the four states of a sequence, which it takes and returns as one tuple, are arguments
and results of their own: the angle, the SSM state, and k and v of the last position, which weigh again in the next.
Not covered: the operation with several inputs (mimo), which is written in TileLang.

All floating arguments have the same dtype, which is also the dtype of the results.
`hold`: see `scanproof.kernels.references.precision`.
Letters: b batch (sequences, where several are packed into one row), l seqlen, h nheads, p headdim of v, g groups (heads
of q and k), n headdim of q and k, a angles: the first 2 a of n channels are rotated, in pairs of neighbours.
States: the angle (b, h, a), the SSM state (b, h, p, n), k (b, h, n) with bias and rotation, and v (b, h, p).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from scanproof.kernels.references.mamba2 import INNER_CHUNK
from scanproof.kernels.references.precision import Hold, exact


def mamba3_siso_step(
    Q: Tensor,
    K: Tensor,
    V: Tensor,
    ADT: Tensor,
    DT: Tensor,
    Trap: Tensor,
    Q_bias: Tensor,
    K_bias: Tensor,
    Angles: Tensor,
    Input_Angle_State: Tensor,
    Input_SSM_State: Tensor,
    Input_K_State: Tensor,
    Input_V_State: Tensor,
    D: Tensor | None = None,
    Z: Tensor | None = None,
    *,
    hold: Hold = exact,
) -> tuple[Tensor, ...]:
    """One position of Mamba-3's recurrence, after the trapezoidal rule and with rotations that depend on the data.

    alpha = exp(ADT), lambda = sigmoid(Trap), angle += pi tanh(Angles) DT, q = R(angle)(Q + Q_bias), k likewise;
    state = alpha state + alpha DT (1 - lambda) v' k' + DT lambda v k, with v' and k' of the position before;
    y = state q + D v, times silu(Z) if given.

    Args:
        Q, K: (b, g, n).
        V: (b, h, p).
        ADT: (b, h), the step size times A, negative.
        DT: (b, h), the step size.
        Trap: (b, h), before the sigmoid.
        Q_bias, K_bias: (h, n).
        Angles: (b, h, a), before the tanh.
        Input_Angle_State, Input_SSM_State, Input_K_State, Input_V_State: the states.
        D: (h,), the skip.
        Z: (b, h, p), the gate.
        hold: rounds operands of matrix products.

    Returns:
        y (b, h, p), and the four states after the step; the angle is between 0 and 2 pi.
    """
    angle = torch.remainder(Input_Angle_State + _turns(Angles, DT), 2 * math.pi)
    q, k = (_rotate(_with_bias(part, bias), angle) for part, bias in ((Q, Q_bias), (K, K_bias)))
    alpha, (now, before) = torch.exp(ADT), _weights(DT, Trap)
    state = _per_state(alpha) * (Input_SSM_State + _per_state(before) * _outer(Input_V_State, Input_K_State))
    state = state + _per_state(now) * _outer(V, k)
    y = (hold(state) @ hold(q)[..., None]).squeeze(-1)
    return _skip_and_gate(y, V, D, Z), angle, state, k, V


def mamba3_siso_combined(
    Q: Tensor,
    K: Tensor,
    V: Tensor,
    ADT: Tensor,
    DT: Tensor,
    Trap: Tensor,
    Q_bias: Tensor,
    K_bias: Tensor,
    Angles: Tensor,
    D: Tensor | None = None,
    Z: Tensor | None = None,
    Input_Angle_State: Tensor | None = None,
    Input_SSM_State: Tensor | None = None,
    Input_K_State: Tensor | None = None,
    Input_V_State: Tensor | None = None,
    chunk_size: int = 64,
    return_final_states: bool = False,
    cu_seqlens: Tensor | None = None,
    *,
    hold: Hold = exact,
) -> tuple[Tensor, ...]:
    """Mamba-3 over whole sequences: `mamba3_siso_step` for each position, quadratic within chunks.

    Args:
        Q, K: (b, l, g, n).
        V: (b, l, h, p).
        ADT, DT, Trap: (b, h, l).
        Q_bias, K_bias: (h, n).
        Angles: (b, l, h, a).
        D: (h,).
        Z: (b, l, h, p).
        Input_Angle_State, Input_SSM_State, Input_K_State, Input_V_State: the states before the first
            position; all four, or none for zeros.
        chunk_size: positions per chunk.  It does not change the exact result.  If `hold` rounds, it determines which
            values are rounded, so then the operation's own chunk size is used.
        cu_seqlens: (s + 1,), where the sequences packed into the only row begin and end; states are then (s, ...).  A
            sequence may be empty: its states are those that it began with.
        hold: rounds operands of matrix products, and the angles, which another kernel sums up.

    Returns:
        y (b, l, h, p); with `return_final_states` also the four states after the last position.
    """
    timed = [*(part.transpose(1, 2) for part in (Q, K, V)), ADT, DT, Trap, Angles.transpose(1, 2)]
    a, heads, p, n = Angles.shape[-1], *V.shape[-2:], Q.shape[-1]
    given = (Input_Angle_State, Input_SSM_State, Input_K_State, Input_V_State)
    count = len(V) if cu_seqlens is None else len(cu_seqlens) - 1
    sizes = ((a,), (p, n), (n,), (p,))
    states = [
        V.new_zeros(count, heads, *size) if state is None else state for state, size in zip(given, sizes, strict=True)
    ]
    chunk = min(chunk_size, INNER_CHUNK) if hold is exact else chunk_size
    lengths = [V.shape[1]] if cu_seqlens is None else torch.diff(cu_seqlens).tolist()
    pieces = zip(*(torch.split(part, lengths, dim=2) for part in timed), strict=True)
    rows = len(V) if cu_seqlens is None else 1
    outputs, ends = [], []
    for number, piece in enumerate(pieces):
        start = [state[rows * number : rows * (number + 1)] for state in states]
        y, end = _scan(piece, Q_bias, K_bias, start, chunk, hold)
        outputs.append(y)
        ends.append(end)
    y = _skip_and_gate(torch.cat(outputs, dim=2).transpose(1, 2), V, D, Z)
    return (y, *(torch.cat(state) for state in zip(*ends, strict=True))) if return_final_states else (y,)


def _scan(
    timed: Sequence[Tensor], Q_bias: Tensor, K_bias: Tensor, states: Sequence[Tensor], chunk: int, hold: Hold
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Sequences of one length, from given states: y (b, h, l, p), and the states after them.

    Args:
        timed: Q, K, V, ADT, DT, Trap and Angles, in which heads come before positions.
    """
    Q, K, V, ADT, DT, Trap, Angles = timed
    angle, state, k_before, v_before = states
    if V.shape[2] == 0:
        return V, tuple(states)
    angles = angle[:, :, None] + torch.cumsum(_turns(Angles, DT), dim=2)
    angles = hold(torch.remainder(angles, 2 * math.pi))
    q, k = (_with_bias(part, bias[:, None]) for part, bias in ((Q, Q_bias), (K, K_bias)))
    now, before = _weights(DT, Trap)
    # A rotation by the same angle on both sides changes nothing.
    own = now * (q * k).sum(-1)
    q, k = _rotate(q, angles), _rotate(k, angles)
    # v k enters the state twice: with DT lambda at its own position, with DT (1 - lambda) of the next one there.  Both
    # decay alike from then on, so that it may enter once, with the sum of the weights, and be seen from the next on.
    weight = now + F.pad(before[..., 1:], (0, 1))
    weighted = hold(k * weight[..., None])
    state = state + _per_state(before[..., 0]) * _outer(v_before, k_before)
    outputs = []
    chunks = zip(*(torch.split(part, chunk, dim=2) for part in (hold(q), weighted, V, ADT)), strict=True)
    for q_k, k_k, v_k, log_decay in chunks:
        y, state = _scan_chunk(q_k, k_k, v_k, log_decay, state, hold)
        outputs.append(y)
    return torch.cat(outputs, dim=2) + own[..., None] * V, (angles[:, :, -1], state, k[:, :, -1], V[:, :, -1])


def _scan_chunk(q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, state: Tensor, hold: Hold) -> tuple[Tensor, Tensor]:
    """One chunk: what each position reads of those before it, and the state after the chunk."""
    length = q.shape[2]
    # The logarithm of the decay from the start of the chunk up to and including each position.
    total = torch.cumsum(log_decay, dim=-1)
    not_before = torch.ones(length, length, dtype=torch.bool, device=q.device).triu()
    # Masked before exp, because above the diagonal the difference is positive and exp may overflow.
    between = (total[..., :, None] - total[..., None, :]).masked_fill(not_before, float("-inf"))
    within = hold(q @ k.mT * torch.exp(between)) @ v
    carried = torch.exp(total)[..., None] * (q @ hold(state).mT)
    to_end = torch.exp(total[..., -1:] - total)
    last = _per_state(torch.exp(total[..., -1])) * state + hold(v * to_end[..., None]).mT @ k
    return within + carried, last


def _weights(steps: Tensor, trap: Tensor) -> tuple[Tensor, Tensor]:
    """The weights of a position's own input, and of the one before it: with lambda = 1 Euler's rule."""
    share = torch.sigmoid(trap)
    return steps * share, steps * (1 - share)


def _turns(angles: Tensor, steps: Tensor) -> Tensor:
    """By how much each angle grows at each position: at most half a turn for a step of 1."""
    return math.pi * torch.tanh(angles) * steps[..., None]


def _with_bias(part: Tensor, bias: Tensor) -> Tensor:
    """Q or K (b, g, ...) of each head, with the head's own bias: (b, h, ...)."""
    return part.repeat_interleave(len(bias) // part.shape[1], dim=1) + bias


def _rotate(part: Tensor, angles: Tensor) -> Tensor:
    """Rotate pairs of neighbouring channels (..., n) by angles (..., a); what is behind 2 a channels stays."""
    turned, rest = torch.split(part, [2 * angles.shape[-1], part.shape[-1] - 2 * angles.shape[-1]], dim=-1)
    even, odd = torch.unflatten(turned, -1, (-1, 2)).unbind(-1)
    cos, sin = torch.cos(angles), torch.sin(angles)
    return torch.cat([torch.stack([even * cos - odd * sin, even * sin + odd * cos], -1).flatten(-2), rest], -1)


def _per_state(value: Tensor) -> Tensor:
    """(b, h) in a shape that multiplies (b, h, p, n)."""
    return value[..., None, None]


def _outer(v: Tensor, k: Tensor) -> Tensor:
    return v[..., :, None] * k[..., None, :]


def _skip_and_gate(y: Tensor, V: Tensor, D: Tensor | None, Z: Tensor | None) -> Tensor:
    if D is not None:
        y = y + D[:, None] * V
    return y if Z is None else y * F.silu(Z)
