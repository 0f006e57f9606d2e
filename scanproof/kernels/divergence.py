"""Measures how far apart the next-token distributions of two models are, and says how far they may be."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

BAR = 0.002
"""Largest mean divergence, in nats per position, between two correct ways to compute the same distributions."""
WORST_BFLOAT16 = 10 * BAR
"""The same for any single position in bfloat16.  A stand-in was measured up to 0.0021 nats from float64 in PyTorch and
up to 0.0035 in mamba-ssm's kernels, so at one position two correct ways may be further apart than BAR."""
ROUNDING_FLOAT32 = 1e-9
"""The same for any single position in float32 without TF32; the largest that was measured is 5e-12.  A rotary position
that is off by one moves a stand-in by 7e-6 nats on average: this bound detects that, BAR does not."""


@dataclass(frozen=True)
class Divergence:
    """Kullback-Leibler divergence between two sequences of distributions, in nats."""

    mean: float
    """Mean over all rows and positions."""
    worst: float
    """Largest divergence at one position; infinite where a logit is not finite."""
    row: int
    """Row of the batch with the largest divergence."""
    position: int
    """Position in the sequence with the largest divergence."""

    def excess(self, dtype: str, tf32: bool = False) -> str:
        """Say that this is more than is allowed for models of this dtype; empty when it is not."""
        allowed_mean, allowed_worst = allowed_divergence(dtype, tf32)
        if self.mean <= allowed_mean and self.worst <= allowed_worst:
            return ""
        return f"{self}; allowed are {allowed_mean:g} and {allowed_worst:g} in {dtype}"

    def __str__(self) -> str:
        return f"KL {self.mean:.3g} nats on average, {self.worst:.3g} at row {self.row}, position {self.position}"


def kl_divergence(expected: Tensor, got: Tensor) -> Divergence:
    """KL(expected || got) of the next-token distributions, in nats, computed in float64.

    Args:
        expected: (b, l, v), logits of any floating dtype; v is the size of the vocabulary.
        got: (b, l, v), logits of any floating dtype.

    Raises:
        ValueError: the shapes differ.
    """
    if expected.shape != got.shape:
        raise ValueError(f"logits of shape {tuple(got.shape)} and {tuple(expected.shape)} cannot be compared")
    p, q = (torch.log_softmax(logits.detach().double(), dim=-1) for logits in (expected, got))
    divergence = (p.exp() * (p - q)).sum(dim=-1)
    divergence = torch.where(divergence.isfinite(), divergence, float("inf"))
    row, position = divmod(int(divergence.argmax()), divergence.shape[1])
    return Divergence(mean=float(divergence.mean()), worst=float(divergence.max()), row=row, position=position)


def allowed_divergence(dtype: str, tf32: bool = False) -> tuple[float, float]:
    """The divergence in nats that is allowed between two correct ways to run a model: mean, and at any one position.

    Args:
        dtype: the model's dtype, such as `bfloat16`.
        tf32: whether matrix products in float32 keep only ten bits of mantissa.
    """
    if dtype == "float32" and not tf32:
        return ROUNDING_FLOAT32, ROUNDING_FLOAT32
    return BAR, WORST_BFLOAT16 if dtype == "bfloat16" else BAR
