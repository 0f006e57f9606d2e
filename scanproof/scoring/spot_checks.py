"""Score a few requests by lm-eval's own path as well, and compare.

All other numbers of a run may come from the shared engine alone.  It always resumes from a state, so it never runs
kernels that only a full pass uses, such as mamba_ssm's fused ones; and it would not notice a small error of its own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from scanproof.numbers.verdict.engines import SpotCheck
from scanproof.numbers.verdict.rounding import FLOAT32_CEILING

REQUESTS = 8
"""Requests that lm-eval's own path scores, in batches of its own."""
ROUNDING = {torch.float16: 2**-5, torch.bfloat16: 2**-2}
"""How far the engines may differ in one token, in nats; for n tokens the limit is sqrt(n) times that.

It is four rounding steps of a logit between 8 and 16; other dtypes have FLOAT32_CEILING.  `rounding_limit` adds the
rounding of the sum.
"""
Request = tuple[None, list[int], list[int]]
Plain = Callable[[list[Request]], list[tuple[float, bool]]]


@dataclass(frozen=True)
class SampledAnswer:
    """A request with the log-likelihood that the shared engine gave it, in nats."""

    context: list[int]
    continuation: list[int]
    value: float


def pick_evenly(count: int, wanted: int) -> Sequence[int]:
    """At most `wanted` indices of `count` items, spread evenly from the first to the last."""
    if count <= wanted or wanted < 2:
        return range(min(count, wanted))
    return [round(number * (count - 1) / (wanted - 1)) for number in range(wanted)]


def precision_of(dtype: torch.dtype, device: torch.device, *, has_ssd: bool) -> torch.dtype:
    """The dtype whose rounding an answer has: on a GPU, SSD multiplies float32 with the ten bits of float16.

    On an H100 the engines were 1.5e-3 nats apart in mamba2-tiny, and its answers up to 0.034 nats from float64; those
    of models without SSD were at most 1.9e-5 nats from it (docs/gpu.md).
    """
    return torch.float16 if has_ssd and dtype == torch.float32 and device.type == "cuda" else dtype


def find_largest_difference(plain: Plain, sampled: Sequence[SampledAnswer], dtype: torch.dtype) -> SpotCheck | None:
    """The request on which the engines differ most, measured in its rounding limit; None where none was sampled.

    Args:
        plain: lm-eval's own `_loglikelihood_tokens`.
        dtype: the dtype whose rounding the model's answers have, see `precision_of`.
    """
    if not sampled:
        return None
    values = [value for value, _ in plain([(None, answer.context, answer.continuation) for answer in sampled])]
    spots = [
        SpotCheck(
            requests=len(sampled),
            shared=finite_or_none(answer.value),
            plain=finite_or_none(value),
            allowed=rounding_limit(answer, value, dtype),
        )
        for answer, value in zip(sampled, values, strict=True)
        # Where both are the same infinity, the engines agree.
        if answer.value != value or math.isfinite(value)
    ]
    return max(spots, key=lambda spot: spot.nats / spot.allowed, default=None)


def rounding_limit(answer: SampledAnswer, value: float, dtype: torch.dtype) -> float:
    """How far two correct log-likelihoods of a request may differ by rounding, in nats."""
    total = torch.finfo(dtype).eps * abs(value) if math.isfinite(value) else 0.0
    return ROUNDING.get(dtype, FLOAT32_CEILING) * math.sqrt(len(answer.continuation)) + total


def finite_or_none(value: float) -> float | None:
    """The value, or None where it is infinite or NaN."""
    return value if math.isfinite(value) else None
