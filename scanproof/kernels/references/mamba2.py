"""References of the Mamba-2 operations; they take the arguments of mamba-ssm 2.3.

All floating arguments have the same dtype, which is also the dtype of the results.
`hold`: see `scanproof.kernels.references.precision`.
Letters: b batch, l seqlen, h nheads, p headdim, g groups, n dstate, w width, s sequences packed into a row.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from scanproof.kernels.references.convolution import causal_conv1d_fn
from scanproof.kernels.references.papers import gated_rms_norm, ssd
from scanproof.kernels.references.precision import Hold, exact

INNER_CHUNK = 64
"""Longest chunk when the reference may choose: the work in a chunk grows with the square of its length."""


def mamba_chunk_scan_combined(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    chunk_size: int,
    D: Tensor | None = None,
    z: Tensor | None = None,
    dt_bias: Tensor | None = None,
    initial_states: Tensor | None = None,
    seq_idx: Tensor | None = None,
    cu_seqlens: Tensor | None = None,
    dt_softplus: bool = False,
    dt_limit: tuple[float, float] = (0.0, float("inf")),
    return_final_states: bool = False,
    return_varlen_states: bool = False,
    *,
    hold: Hold = exact,
) -> tuple[Tensor, ...]:
    """State space duality over whole sequences (arXiv 2405.21060, section 6), with everything that the operation fuses.

    Args:
        x: (b, l, h, p).
        dt: (b, l, h), before bias, softplus and limits, in this order.
        A: (h,), negative.
        B, C: (b, l, g, n).
        chunk_size: positions per chunk.  It does not change the exact result.  If `hold` rounds, it determines which
            values are rounded, so then the operation's own chunk size is used.
        D: (h,) or (h, p), the skip.
        z: (b, l, h, p), the gate.
        dt_bias: (h,).
        initial_states: (b, h, p, n); with `seq_idx` it belongs to each row's first sequence.
        seq_idx: (b, l), the number of the sequence that each position belongs to, non-decreasing from 0; no state
            passes from one sequence to the next.
        cu_seqlens: (s + 1,), where the sequences of the only row begin and end; for `return_varlen_states`.  A sequence
            may be empty: its state is the one that it began with, which for all but the first is zero.
        dt_softplus: whether dt goes through softplus.
        dt_limit: smallest and largest dt.
        hold: rounds operands of matrix products.

    Returns:
        y (b, l, h, p); with `return_final_states` the states after each row's last position (b, h, p, n); with
        `return_varlen_states` the states after each sequence (s, h, p, n).
    """
    if dt_bias is not None:
        dt = dt + dt_bias
    if dt_softplus:
        dt = F.softplus(dt)
    dt = dt.clamp(*dt_limit)
    chunk = min(chunk_size, INNER_CHUNK) if hold is exact else chunk_size
    if seq_idx is None:
        y, final = ssd(x, dt, A, B, C, chunk, D, initial_state=initial_states, hold=hold)
        varlen = [final]
    else:
        y, final, varlen = _packed(x, dt, A, B, C, chunk, D, initial_states, seq_idx, cu_seqlens, hold)
    if z is not None:
        y = y * F.silu(z)
    results = [y]
    if return_final_states:
        results.append(final)
    if return_varlen_states:
        results.append(torch.cat(varlen))
    return tuple(results)


def _packed(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    chunk: int,
    D: Tensor | None,
    initial: Tensor | None,
    seq_idx: Tensor,
    cu_seqlens: Tensor | None,
    hold: Hold,
) -> tuple[Tensor, Tensor, list[Tensor]]:
    """Run `ssd` for each packed sequence alone; returns y, and the last states of rows and of sequences."""
    rows, finals, states = [], [], []
    for row in range(len(x)):
        if cu_seqlens is None:
            lengths = torch.unique_consecutive(seq_idx[row], return_counts=True)[1].tolist()
        else:
            lengths = torch.diff(cu_seqlens).tolist()
        pieces = zip(*(torch.split(part[row : row + 1], lengths, dim=1) for part in (x, dt, B, C)), strict=True)
        outputs = []
        for number, (x_s, dt_s, B_s, C_s) in enumerate(pieces):
            start = initial[row : row + 1] if initial is not None and number == 0 else None
            y, state = ssd(x_s, dt_s, A, B_s, C_s, chunk, D, initial_state=start, hold=hold)
            outputs.append(y)
            states.append(state)
        rows.append(torch.cat(outputs, dim=1))
        # That after the last position: a sequence that comes after it is empty.
        last = max(number for number, length in enumerate(lengths) if length)
        finals.append(states[last - len(lengths)])
    return torch.cat(rows), torch.cat(finals), states


def mamba_split_conv1d_scan_combined(
    zxbcdt: Tensor,
    conv1d_weight: Tensor,
    conv1d_bias: Tensor | None,
    dt_bias: Tensor,
    A: Tensor,
    D: Tensor,
    chunk_size: int,
    initial_states: Tensor | None = None,
    seq_idx: Tensor | None = None,
    dt_limit: tuple[float, float] = (0.0, float("inf")),
    return_final_states: bool = False,
    activation: str | None = "silu",
    rmsnorm_weight: Tensor | None = None,
    rmsnorm_eps: float = 1e-6,
    outproj_weight: Tensor | None = None,
    outproj_bias: Tensor | None = None,
    headdim: int | None = None,
    ngroups: int = 1,
    norm_before_gate: bool = True,
    *,
    hold: Hold = exact,
) -> tuple[Tensor, ...]:
    """Everything in a Mamba-2 block after its first projection (arXiv 2405.21060, figure 6).

    Args:
        zxbcdt: (b, l, 2 o + 2 h p + 2 g n + h): gate and value of an MLP parallel to the scan (o channels each, often
            0), then the gate z, x, B, C and dt of the scan.
        conv1d_weight: (h p + 2 g n, w), over x, B and C.
        conv1d_bias: (h p + 2 g n,).
        dt_bias, A: (h,).
        D: (h,) or (h, p).
        chunk_size, initial_states, seq_idx, dt_limit: as in `mamba_chunk_scan_combined`.
        activation: of the convolution, None or `silu`.
        rmsnorm_weight: (h p,); None: no norm, only the gate.
        outproj_weight: (m, o + h p); None: no output projection.
        headdim: needed if D is (h,).
        hold: rounds operands of matrix products, and what one kernel hands to the next.

    Returns:
        (b, l, m), or (b, l, o + h p) without an output projection; with `return_final_states` also the last states
        (b, h, p, n).

    Raises:
        ValueError: neither D nor `headdim` says what the head dimension is.
    """
    if D.dim() == 2:
        headdim = D.shape[1]
    if headdim is None:
        raise ValueError("headdim is needed where D has one number per head")
    heads = len(A)
    inner, conv = heads * headdim, len(conv1d_weight)
    mlp_channels = zxbcdt.shape[-1] - inner - conv - heads
    gate0, x0, z, xBC, dt = torch.split(zxbcdt, [mlp_channels // 2, mlp_channels // 2, inner, conv, heads], dim=-1)
    (xBC,) = causal_conv1d_fn(xBC.transpose(1, 2), conv1d_weight, conv1d_bias, seq_idx, activation=activation)
    group_states = (conv - inner) // 2
    x, B, C = torch.split(hold(xBC).transpose(1, 2), [inner, group_states, group_states], dim=-1)
    B, C = (torch.unflatten(part, -1, (ngroups, -1)) for part in (B, C))
    y, *states = mamba_chunk_scan_combined(
        torch.unflatten(x, -1, (heads, headdim)), dt, A, B, C, chunk_size, D,
        torch.unflatten(z, -1, (heads, headdim)) if rmsnorm_weight is None else None,
        dt_bias, initial_states, seq_idx, dt_softplus=True, dt_limit=dt_limit,
        return_final_states=return_final_states, hold=hold,
    )  # fmt: skip
    y = hold(y.flatten(-2))
    if rmsnorm_weight is not None:
        y = hold(gated_rms_norm(y, z, rmsnorm_weight, rmsnorm_eps, inner // ngroups, norm_before_gate))
    if mlp_channels:
        y = torch.cat([hold(F.silu(gate0) * x0), y], dim=-1)
    if outproj_weight is not None:
        y = F.linear(y, outproj_weight, outproj_bias)
    return (y, *states)
