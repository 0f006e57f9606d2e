"""Selective scans that start from a given state, which mamba_ssm's kernel cannot.

Letters: b batch, d channels, l seqlen, n dstate, r groups of B and C.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from scanproof.kernels.references.papers import CHUNK as POSITIONS
from scanproof.kernels.references.papers import selective_scan

BLOCK = 2**18
"""Elements that the reference works on at once: 1 MiB of float32, which fits into a core's cache."""
CHUNK = 64
"""Positions for which the first state's contribution is computed at once; memory grows with it."""


def scan_with_reference(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor,
    z: Tensor,
    bias: Tensor,
    before: Tensor,
) -> tuple[Tensor, Tensor]:
    """The reference, which takes a first state.  Plain scoring calls it too, so its errors are in both engines.

    Args:
        u: (b, d, l), the input.
        delta: (b, d, l), step sizes before bias and softplus.
        A: (d, n).
        B: (b, n, l), or (b, r, n, l) with d / r channels per group.
        C: as B.
        D: (d,).
        z: (b, d, l), the gate.
        bias: (d,).
        before: (b, d, n), the first state.

    Returns:
        y (b, d, l) and the last state (b, d, n), in float32 or wider.
    """
    u, delta, B, C, z = (part.to(A.dtype) for part in (u, delta, B, C, z))
    if B.dim() == 3:
        done = [
            selective_scan(u_k, delta_k, A, B_k, C_k, D, z_k, bias, delta_softplus=True, initial_state=before_k)
            for u_k, delta_k, B_k, C_k, z_k, before_k in _split_rows(A.numel(), u, delta, B, C, z, before)
        ]
        y, last = (torch.cat(parts) for parts in zip(*done, strict=True))
        return y, last
    groups = B.shape[1]
    # Each group becomes a row of the batch, with its own channels and its own A.
    rows = torch.unflatten(A, 0, (groups, -1)).repeat(len(u), 1, 1)
    delta = delta + bias[:, None]
    inputs, steps = (torch.unflatten(part, 1, (groups, -1)).flatten(0, 1) for part in (u, delta))
    first = torch.unflatten(before, 1, (groups, -1)).flatten(0, 1)
    B, C = (part.flatten(0, 1) for part in (B, C))
    done = [
        selective_scan(u_k, delta_k, A_k, B_k, C_k, delta_softplus=True, initial_state=first_k)
        for u_k, delta_k, A_k, B_k, C_k, first_k in _split_rows(rows[0].numel(), inputs, steps, rows, B, C, first)
    ]
    y, last = (torch.cat(parts) for parts in zip(*done, strict=True))
    y, last = (torch.unflatten(part, 0, (-1, groups)).flatten(1, 2) for part in (y, last))
    return (y + D[:, None] * u) * F.silu(z), last


def _split_rows(numbers: int, *parts: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Split the tensors by rows into parts of at most BLOCK elements; a position of a row has `numbers` elements."""
    count = max(1, BLOCK // (POSITIONS * numbers))
    return zip(*(torch.split(part, count) for part in parts), strict=True)


def add_first_state(kernel: Callable[..., Any]) -> Callable[..., tuple[Tensor, Tensor]]:
    """A scan made of the kernel's scan from zero plus the contribution of the first state.

    The recurrence is linear in the state: h[t] = h0[t] + exp(A S[t]) h[0], where h0 is the state of the scan from zero
    and S[t] the sum of the step sizes up to t.  So C[t] exp(A S[t]) h[0] is added to y[t].  The scan takes and returns
    what `scan_with_reference` does.
    """

    def scan(
        u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, z: Tensor, bias: Tensor, before: Tensor
    ) -> tuple[Tensor, Tensor]:
        # The kernel loads aligned vectors; the rows of a sliced input may start anywhere.
        y, last = kernel(
            u.contiguous(), delta.contiguous(), A, B.contiguous(), C.contiguous(), D, delta_bias=bias,
            delta_softplus=True, return_last_state=True,
        )  # fmt: skip
        sums = F.softplus(delta.to(A.dtype) + bias[:, None]).cumsum(-1)
        pieces = zip(torch.split(sums, CHUNK, -1), torch.split(C, CHUNK, -1), strict=True)
        gained = [_read_first_state(A, S, C_k.to(A.dtype), before) for S, C_k in pieces]
        y = (y.to(A.dtype) + torch.cat(gained, -1)) * F.silu(z.to(A.dtype))
        return y, last + torch.exp(A * sums[..., -1:]) * before

    return scan


def states_at_once(length: int) -> int:
    """States of a row that `add_first_state` has in memory: three for each position that it computes at once."""
    return 3 * min(CHUNK, length)


def _read_first_state(A: Tensor, sums: Tensor, C: Tensor, before: Tensor) -> Tensor:
    """C[t] exp(A S[t]) h[0], (b, d, l), for the positions of `sums` (b, d, l) and `C`; `before` is h[0]."""
    state = torch.exp(A[..., None] * sums[:, :, None]) * before[..., None]
    if C.dim() == 3:
        return torch.einsum("bdnl,bnl->bdl", state, C)
    grouped = torch.unflatten(state, 1, (C.shape[1], -1))
    return torch.einsum("brdnl,brnl->brdl", grouped, C).flatten(1, 2)
