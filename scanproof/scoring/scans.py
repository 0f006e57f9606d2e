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
LEADING_STEP = 2.0**-60
"""Step size of the positions that write a first state: a power of two, so that it cancels, and nothing decays in it."""


def scan_with_reference(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor,
    z: Tensor,
    bias: Tensor,
    before: Tensor | None,
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
        before: (b, d, n), the first state; None for zeros.

    Returns:
        y (b, d, l) and the last state (b, d, n), in float32 or wider.
    """
    u, delta, B, C, z = (part.to(A.dtype) for part in (u, delta, B, C, z))
    before = A.new_zeros(len(u), *A.shape) if before is None else before
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
        u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, z: Tensor, bias: Tensor,
        before: Tensor | None,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        # The kernel loads aligned vectors; the rows of a sliced input may start anywhere.
        y, last = kernel(
            u.contiguous(), delta.contiguous(), A, B.contiguous(), C.contiguous(), D, delta_bias=bias,
            delta_softplus=True, return_last_state=True,
        )  # fmt: skip
        y = y.to(A.dtype)
        if before is not None:
            steps = F.softplus(delta.to(A.dtype) + bias[:, None])
            gained, left = _continue_state(kernel, steps, A, C.to(A.dtype), before)
            y, last = y + gained, last + left
        return y * F.silu(z.to(A.dtype)), last

    return scan


def _continue_state(
    kernel: Callable[..., Any], steps: Tensor, A: Tensor, C: Tensor, before: Tensor
) -> tuple[Tensor, Tensor]:
    """C[t] exp(A S[t]) h[0] (b, d, l), and exp(A S[l]) h[0]; `before` (b, d, n) is h[0], S sums the `steps` (b, d, l).

    The kernel computes both, whatever the length, in float32 or wider: each of n leading positions writes one number of
    the state, and nothing is written after them.  What they write, step B u, is h[0] exactly.
    """
    count, length = A.shape[1], steps.shape[-1]
    B = C.new_zeros(*C.shape[:-1], count + length)
    torch.diagonal(B, dim1=-2, dim2=-1).fill_(1 / LEADING_STEP)
    steps = F.pad(steps, (count, 0), value=LEADING_STEP)
    y, last = kernel(F.pad(before, (0, length)), steps, A, B, F.pad(C, (count, 0)), return_last_state=True)
    return y[..., count:], last


def states_at_once(length: int, size: int) -> float:
    """States of a row that `add_first_state` has in memory, of `size` numbers per channel, for `length` positions.

    The kernel's inputs and results of the first state, a number per channel and position each, and what it keeps of its
    two scans.
    """
    return 5 * (size + length) / size + 3
