"""A few requests scored by plain as well, after the engine has scored all.

Every other number of a run may come from the engine alone, which never calls what only a pass from the first token
calls, mamba_ssm's fused kernels for one, and which would not notice a slight fault of its own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from scanproof.numbers.verdict.engines import Spot
from scanproof.numbers.verdict.rounding import FLOAT32_CEILING

REQUESTS = 8
"""That plain scores, in its own batches."""
ROUNDING = {torch.float16: 2**-5, torch.bfloat16: 2**-2}
"""Nats that the engines may be apart in a token, in several with the root of their number.

Four steps of a logit between 8 and 16; the sum is rounded as well.  Other dtypes have the ceiling of float32.
"""
Request = tuple[None, list[int], list[int]]
Plain = Callable[[list[Request]], list[tuple[float, bool]]]


@dataclass(frozen=True)
class Answered:
    """What the engine said of a request."""

    context: list[int]
    continuation: list[int]
    value: float


def spread(count: int, wanted: int) -> Sequence[int]:
    """At most so many of `count` places, evenly from the first to the last."""
    if count <= wanted or wanted < 2:
        return range(min(count, wanted))
    return [round(place * (count - 1) / (wanted - 1)) for place in range(wanted)]


def check(plain: Plain, sampled: Sequence[Answered], dtype: torch.dtype) -> Spot | None:
    """The request of which the engines are apart most for what rounding may do to it; None where nothing was sampled.

    Args:
        plain: lm-eval's own `_loglikelihood_tokens`.
        dtype: that the model computes in.
    """
    if not sampled:
        return None
    values = [value for value, _ in plain([(None, each.context, each.continuation) for each in sampled])]
    found = [
        Spot(
            requests=len(sampled), shared=number(each.value), plain=number(value), allowed=rounding(each, value, dtype)
        )
        for each, value in zip(sampled, values, strict=True)
        # Both may say that something is impossible.
        if each.value != value or math.isfinite(value)
    ]
    return max(found, key=lambda each: each.nats / each.allowed, default=None)


def rounding(answered: Answered, value: float, dtype: torch.dtype) -> float:
    """Nats that two right answers to a request may be apart."""
    total = torch.finfo(dtype).eps * abs(value) if math.isfinite(value) else 0.0
    return ROUNDING.get(dtype, FLOAT32_CEILING) * math.sqrt(len(answered.continuation)) + total


def number(value: float) -> float | None:
    """None for what is none."""
    return value if math.isfinite(value) else None
