"""SSD in a third form, to which the references are compared."""

from __future__ import annotations

import torch
from torch import Tensor


def ssd_quadratic(x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor) -> Tensor:
    """The attention-like form of the duality (arXiv 2405.21060, section 3.2): y = (L o C B^T) (dt x).

    L[i, j] = product over j < t <= i of exp(dt[t] A), multiplied out position by position; 0 above the diagonal.
    Arguments as in `scanproof.kernels.references.mamba2.ssd`; quadratic in l, with no state.
    """
    heads, seqlen = x.shape[2], x.shape[1]
    B, C = (part.repeat_interleave(heads // part.shape[2], dim=2) for part in (B, C))
    decay = torch.exp(dt * A)
    columns = []
    for j in range(seqlen):
        below = torch.cumprod(decay[:, j + 1 :], dim=1)
        ones, zeros = torch.ones_like(decay[:, :1]), torch.zeros_like(decay[:, :j])
        columns.append(torch.cat([zeros, ones, below], dim=1))
    L = torch.stack(columns, dim=-1)
    return torch.einsum("bihj,bihn,bjhn,bjh,bjhp->bihp", L, C, B, dt, x)
