"""How far apart two models' next-token distributions are."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

BAR = 0.002
"""Nats between two correct ways to compute the same distributions, on average over positions."""
WORST_BFLOAT16 = 10 * BAR
"""The same at any one position in bfloat16: a stand-in was up to 0.0021 nats from float64 there in PyTorch, and
0.0035 in mamba-ssm's kernels, so that two correct ways may be further apart than BAR."""
ROUNDING_FLOAT32 = 1e-9
"""The same at any one position in float32, where nothing is cut to TF32; 5e-12 was the largest seen.  A rotary
position off by one moves a stand-in by 7e-6 nats on average: BAR does not see it, this does."""


@dataclass(frozen=True)
class Divergence:
    """Kullback-Leibler divergence between two sequences of distributions, in nats."""

    mean: float
    """Over all rows and positions."""
    worst: float
    """Largest of one position; infinite where a logit is not finite."""
    row: int
    """Where the largest is: row of the batch,"""
    position: int
    """and position in the sequence."""

    def excess(self, dtype: str, tf32: bool = False) -> str:
        """What is above the bar for models of this dtype; empty when nothing is."""
        mean, worst = allowed_divergence(dtype, tf32)
        if self.mean <= mean and self.worst <= worst:
            return ""
        return f"{self}; allowed are {mean:g} and {worst:g} in {dtype}"

    def __str__(self) -> str:
        return f"KL {self.mean:.3g} nats on average, {self.worst:.3g} at row {self.row}, position {self.position}"


def kl_divergence(expected: Tensor, got: Tensor) -> Divergence:
    """KL(expected || got) of the distributions over the vocabulary, computed in float64.

    Args:
        expected: (b, l, v), logits of any floating dtype.
        got: (b, l, v), logits.

    Raises:
        ValueError: the shapes differ.
    """
    if expected.shape != got.shape:
        raise ValueError(f"logits of shape {tuple(got.shape)} and {tuple(expected.shape)} cannot be compared")
    p, q = (torch.log_softmax(logits.detach().double(), dim=-1) for logits in (expected, got))
    each = (p.exp() * (p - q)).sum(dim=-1)
    each = torch.where(each.isfinite(), each, float("inf"))
    row, position = divmod(int(each.argmax()), each.shape[1])
    return Divergence(mean=float(each.mean()), worst=float(each.max()), row=row, position=position)


def allowed_divergence(dtype: str, tf32: bool = False) -> tuple[float, float]:
    """Largest mean, and largest at one position, between two correct ways to run a model of this dtype.

    Args:
        tf32: whether matrix products in float32 keep ten bits of mantissa.
    """
    if dtype == "float32" and not tf32:
        return ROUNDING_FLOAT32, ROUNDING_FLOAT32
    return BAR, WORST_BFLOAT16 if dtype == "bfloat16" else BAR
