"""References of the Mamba-1 operations; they take the arguments of mamba-ssm 2.3.

All floating arguments have the same dtype, which is also the dtype of the results.
`hold`: see `scanproof.kernels.references.precision`.
Letters: b batch, l seqlen, d channels, n dstate, g groups, h nheads, p headdim, r rank of dt, m d_model, w width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from scanproof.kernels.references.papers import causal_conv1d, rms_norm, selective_scan
from scanproof.kernels.references.precision import Hold, exact


def selective_scan_fn(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = False,
    return_last_state: bool = False,
    *,
    hold: Hold = exact,
) -> tuple[Tensor, ...]:
    """The selective scan (arXiv 2312.00752, equations 2a and 2b) with constant, shared or grouped B and C.

    Args:
        u: (b, d, l).
        delta: (b, d, l), before bias and softplus.
        A: (d, n), with a negative real part.
        B: (d, n) constant in time, (b, n, l) shared by all channels, or (b, g, n, l): channel i belongs to
            group i // (d / g).  If A is complex, B is complex too: in the form (d, n) by its dtype, in the other
            forms with real and imaginary parts interleaved, (b, [g,] n, 2l).
        C: as B; the two may have different forms.  If A is complex, the output is twice the real part of C h, because
            only one of each pair of conjugate states is computed (arXiv 2206.11893).
        D: (d,), the skip.
        z: (b, d, l), the gate.
        delta_bias: (d,).
        delta_softplus: whether delta goes through softplus after its bias.
        hold: unused, because one kernel does everything.

    Returns:
        y (b, d, l); with `return_last_state` also the last state (b, d, n), which is complex if A is.
    """
    if A.is_complex():
        B, C = (part if part.dim() == 2 else _from_pairs(part) for part in (B, C))
    if delta_bias is not None:
        delta = delta + delta_bias[:, None]
    batch, channels, seqlen = u.shape
    groups = max(_groups(B), _groups(C))
    # Groups are folded into the batch: each becomes a row with its own channels and its own A.
    fold = (batch * groups, channels // groups)
    rows = torch.unflatten(A, 0, (groups, -1)).repeat(batch, 1, 1)
    B, C = (_per_group(part, batch, groups, seqlen).flatten(0, 1) for part in (B, C))
    y, state = selective_scan(
        u.reshape(*fold, seqlen), delta.reshape(*fold, seqlen), rows, B, C, delta_softplus=delta_softplus
    )
    y = y.reshape(batch, channels, seqlen)
    if D is not None:
        y = y + D[:, None] * u
    if z is not None:
        y = y * F.silu(z)
    return (y, state.reshape(batch, channels, -1)) if return_last_state else (y,)


def _from_pairs(part: Tensor) -> Tensor:
    """Convert interleaved real and imaginary parts (..., 2l) to complex numbers (..., l)."""
    pairs = torch.unflatten(part, -1, (-1, 2))
    return torch.complex(pairs[..., 0], pairs[..., 1])


def _groups(part: Tensor) -> int:
    """Number of groups of B or C; the form that is constant in time has one group per channel."""
    return int({2: part.shape[0], 3: 1, 4: part.shape[1]}[part.dim()])


def _per_group(part: Tensor, batch: int, groups: int, seqlen: int) -> Tensor:
    """Expand B or C from any form to (b, groups, n, l)."""
    if part.dim() == 2:
        part = part[None, :, :, None].expand(batch, -1, -1, seqlen)
    elif part.dim() == 3:
        part = part[:, None]
    return part.repeat_interleave(groups // part.shape[1], dim=1)


def mamba_inner_fn(
    xz: Tensor,
    conv1d_weight: Tensor,
    conv1d_bias: Tensor | None,
    x_proj_weight: Tensor,
    delta_proj_weight: Tensor,
    out_proj_weight: Tensor,
    out_proj_bias: Tensor | None,
    A: Tensor,
    B: Tensor | None = None,
    C: Tensor | None = None,
    D: Tensor | None = None,
    delta_bias: Tensor | None = None,
    B_proj_bias: Tensor | None = None,
    C_proj_bias: Tensor | None = None,
    delta_softplus: bool = True,
    b_rms_weight: Tensor | None = None,
    c_rms_weight: Tensor | None = None,
    dt_rms_weight: Tensor | None = None,
    b_c_dt_rms_eps: float = 1e-6,
    *,
    hold: Hold = exact,
) -> tuple[Tensor]:
    """Everything in a Mamba block after its first projection (arXiv 2312.00752, figure 3).

    Args:
        xz: (b, 2 d, l), the input of the scan and the gate.
        conv1d_weight: (d, 1, w).
        conv1d_bias: (d,).
        x_proj_weight: (r + 2 n, d); it computes the low-rank part of dt, B and C.
        delta_proj_weight: (d, r).
        out_proj_weight: (m, d).
        out_proj_bias: (m,).
        A: (d, n).
        B, C: as in `selective_scan_fn`; None: computed from the input by x_proj.
        D, delta_bias: (d,).
        B_proj_bias, C_proj_bias: (n,), added to what x_proj computes.
        delta_softplus: as in `selective_scan_fn`.
        b_rms_weight, c_rms_weight: (n,), of an RMS norm over the states of B and of C (FalconMamba, arXiv 2410.05355).
        dt_rms_weight: (d,), of an RMS norm of dt after its projection, over all channels.  FalconMamba itself has that
            norm before the projection.
        b_c_dt_rms_eps: of the three norms.
        hold: rounds what one kernel hands to the next.

    Returns:
        (b, l, m).
    """
    x, z = xz.chunk(2, dim=1)
    x = hold(causal_conv1d(x, conv1d_weight[:, 0], conv1d_bias, "silu"))
    rank, states = delta_proj_weight.shape[1], A.shape[1]
    parts = hold(F.linear(x.transpose(1, 2), x_proj_weight))
    # Where B and C are given, x may be projected to dt alone.
    low_rank, from_x_B, from_x_C = torch.tensor_split(parts, [rank, rank + states], dim=-1)
    delta = hold(F.linear(low_rank, delta_proj_weight)).transpose(1, 2)
    delta = _normed(delta, dt_rms_weight, b_c_dt_rms_eps, hold)
    if B is None:
        B = from_x_B if B_proj_bias is None else hold(from_x_B + B_proj_bias)
        B = _normed(B.transpose(1, 2), b_rms_weight, b_c_dt_rms_eps, hold)
    if C is None:
        C = from_x_C if C_proj_bias is None else hold(from_x_C + C_proj_bias)
        C = _normed(C.transpose(1, 2), c_rms_weight, b_c_dt_rms_eps, hold)
    (y,) = selective_scan_fn(x, delta, A, B, C, D, z, delta_bias, delta_softplus)
    return (F.linear(hold(y).transpose(1, 2), out_proj_weight, out_proj_bias),)


def _normed(part: Tensor, weight: Tensor | None, eps: float, hold: Hold) -> Tensor:
    """The RMS norm of dt, B or C over its second axis; without a weight there is none."""
    return part if weight is None else hold(rms_norm(part.transpose(1, 2), weight, eps)).transpose(1, 2)


def selective_state_update(
    state: Tensor,
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    dt_bias: Tensor | None = None,
    dt_softplus: bool = False,
    state_batch_indices: Tensor | None = None,
    *,
    hold: Hold = exact,
) -> tuple[Tensor, Tensor]:
    """One step of the recurrence, for Mamba-1 (shapes without h) and Mamba-2 (shapes with h).

    Args:
        state: (N, [h,] p, n); N = b unless `state_batch_indices` is given.
        x, dt, z: (b, [h,] p).
        A: ([h,] p, n).
        B, C: (b, [g,] n).
        D, dt_bias: ([h,] p).
        state_batch_indices: (b,), the row of `state` that belongs to each row of x; negative: padding, its
            output is 0.
        hold: unused, because one kernel does everything.

    Returns:
        y (b, [h,] p), and all N states after the step, those of other rows unchanged.
    """
    rows = torch.arange(len(x), device=x.device) if state_batch_indices is None else state_batch_indices.long()
    if dt_bias is not None:
        dt = dt + dt_bias
    if dt_softplus:
        dt = F.softplus(dt)
    if state.dim() == 4:
        B, C = (part.repeat_interleave(state.shape[1] // part.shape[1], dim=1) for part in (B, C))
    new = torch.exp(dt[..., None] * A) * state[rows] + (dt * x)[..., None] * B[..., None, :]
    y = (new * C[..., None, :]).sum(-1)
    if D is not None:
        y = y + D * x
    if z is not None:
        y = y * F.silu(z)
    real = rows >= 0
    y = torch.where(real.view(-1, *[1] * (y.dim() - 1)), y, torch.zeros_like(y))
    return y, state.index_copy(0, rows[real], new[real])
