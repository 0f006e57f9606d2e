"""A slow drift over nights, and the night on which it began.  Pure.

One series holds a share of right documents, or a log perplexity, for each night.  Two correct nights differ by flips
alone (`scanproof.numbers.verdict.flip_bounds`), at the rate that calibrated the first gate.  Nights may depend on each
other in any way: a new driver keeps its flips until the next one.  Chernoff's bound holds for a mean of nights as for
one night (the moment generating function is convex), so the difference of two stretches of nights exceeds

    net_mass(((q N, 1 / N),), level / splits)

with probability `level` at most, over all places where the series can be split.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from scanproof.numbers.verdict.flip_bounds import net_mass

SHORTEST = 5
"""Nights before and after a change: one bad night is no drift, and it is reported as itself."""


@dataclass(frozen=True)
class Drift:
    """A change that stayed."""

    began: int
    """Index of the first night that is not as before."""
    shape: str
    """`step` or `ramp`."""
    before: float
    """Mean of the nights before it."""
    now: float
    """Mean of the nights since, or of the last few when it is still going on."""
    allowed: float
    """By how much stretches of correct nights may differ."""


def allowed_share(documents: int, flip_rate: float, level: float, nights: int) -> float:
    """How far two stretches of correct nights may lie apart, as a share of the documents."""
    return net_mass(((flip_rate * documents, 1.0 / documents),), level / (2 * max(1, nights)))


def allowed_log(sd: float, level: float, nights: int) -> float:
    """The same for a log perplexity whose difference between two correct nights is normal with this deviation."""
    return sd * math.sqrt(2 * math.log(2 * max(1, nights) / level))


def find(series: Sequence[float], allowed: float) -> Drift | None:
    """The drift of a series, or None.  `allowed` is for all splits of this series together.

    It is there when a stretch at the end of the series lies further than `allowed` from all nights before it; it
    began where a step, or a ramp from a constant, fits the series best.
    """
    nights = len(series)
    if not series or max(series) - min(series) <= allowed:
        return None  # No two means lie further apart than the values.
    splits = range(SHORTEST, nights - SHORTEST + 1)
    sums = [0.0, *accumulate(series)]
    apart = [abs((sums[-1] - sums[k]) / (nights - k) - sums[k] / k) for k in splits]
    if not apart or max(apart) <= allowed:
        return None
    step = min((step_error(series, split), split) for split in splits)
    ramp = min((ramp_error(series, knee), knee) for knee in splits)
    # A ramp has a parameter more in its slope, and fits a step almost as well: it has to be clearly better.
    shape, began = ("ramp", ramp[1]) if ramp[0] < 0.8 * step[0] else ("step", step[1])
    since = series[began:] if shape == "step" else series[-SHORTEST:]
    return Drift(began, shape, mean(series[:began]), mean(since), allowed)


def mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def step_error(series: Sequence[float], split: int) -> float:
    """Sum of squares around the means of both stretches."""
    return spread(series[:split]) + spread(series[split:])


def spread(values: Sequence[float]) -> float:
    middle = mean(values)
    return math.fsum((value - middle) ** 2 for value in values)


def ramp_error(series: Sequence[float], knee: int) -> float:
    """Sum of squares around a constant up to the knee and a straight line from there on."""
    slopes = [max(0, night - knee + 1) for night in range(len(series))]
    x, y = mean(slopes), mean(series)
    across = math.fsum((slope - x) ** 2 for slope in slopes)
    slope = math.fsum((a - x) * (b - y) for a, b in zip(slopes, series, strict=True)) / across
    return math.fsum((b - y - slope * (a - x)) ** 2 for a, b in zip(slopes, series, strict=True))
