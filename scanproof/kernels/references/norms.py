"""References of the fused norms; they take the arguments of mamba-ssm 2.3.

Not covered, because no published model uses them: dropout, a second branch (x1, weight1, bias1), row scales.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from scanproof.kernels.references import papers
from scanproof.kernels.references.precision import Hold, exact


def layer_norm_fn(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    residual: Tensor | None = None,
    eps: float = 1e-6,
    prenorm: bool = False,
    residual_in_fp32: bool = False,
    is_rms_norm: bool = False,
    *,
    hold: Hold = exact,
) -> tuple[Tensor, ...]:
    """norm(x + residual); with `prenorm` also the sum, which is the residual of the next layer.

    Args:
        x, residual: (..., d).
        weight, bias: (d,).
        residual_in_fp32: unused; it determines in which dtype the operation stores the sum.
        is_rms_norm: divide by the root mean square, without subtracting the mean (arXiv 1910.07467).
        hold: unused, because one kernel does everything.

    Returns:
        The norm (..., d); with `prenorm` also the sum (..., d).
    """
    total = x if residual is None else x + residual
    if is_rms_norm:
        y = papers.rms_norm(total, weight, eps)
        y = y if bias is None else y + bias
    else:
        y = F.layer_norm(total, weight.shape, weight, bias, eps)
    return (y, total) if prenorm else (y,)


def rms_norm_fn(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    residual: Tensor | None = None,
    eps: float = 1e-6,
    prenorm: bool = False,
    residual_in_fp32: bool = False,
    *,
    hold: Hold = exact,
) -> tuple[Tensor, ...]:
    """`layer_norm_fn` with `is_rms_norm`."""
    return layer_norm_fn(x, weight, bias, residual, eps, prenorm, residual_in_fp32, is_rms_norm=True)


def rmsnorm_fn(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    z: Tensor | None = None,
    eps: float = 1e-6,
    group_size: int | None = None,
    norm_before_gate: bool = True,
    *,
    hold: Hold = exact,
) -> tuple[Tensor]:
    """The gated norm at the end of a Mamba-2 block (arXiv 2405.21060, figure 6).

    Args:
        x, z: (..., d); z is the gate.
        weight, bias: (d,); the bias is added right after the norm.
        group_size: how many channels share a mean square; all if None.
        norm_before_gate: rms_norm(x) silu(z) if true, else rms_norm(x silu(z)).
        hold: unused, because one kernel does everything.

    Returns:
        (..., d).
    """
    gated = x if z is None or norm_before_gate else x * F.silu(z)
    y = papers.rms_norm(gated, weight, eps, group_size)
    y = y if bias is None else y + bias
    return (y * F.silu(z) if z is not None and norm_before_gate else y,)
