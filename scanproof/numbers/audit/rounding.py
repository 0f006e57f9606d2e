"""Which numbers a printed number can stand for: intervals of values, ranges of counts."""

from __future__ import annotations

import math

from scanproof.numbers.values import PublishedValue

EDGE = 1e-9
"""Relative slack at the ends of a rounding interval: 0.36325 prints as 0.3632 or 0.3633."""


def interval(value: PublishedValue) -> tuple[float, float]:
    """Lowest and highest value, in natural units, that rounds to what was printed."""
    return value.expected - value.half_unit, value.expected + value.half_unit


def stderr_interval(value: PublishedValue) -> tuple[float, float]:
    """The same for the printed standard error; raises ValueError when none was printed."""
    if value.stderr is None:
        raise ValueError(f"{value.id} has no printed standard error")
    places = len(value.stderr.partition(".")[2])
    half = 0.5 * 10.0**-places / value.scale
    centre = float(value.stderr) / value.scale
    return max(0.0, centre - half), centre + half


def counts(value: PublishedValue, documents: int) -> range:
    """Every k for which k / documents rounds to what was printed; empty when no share prints so."""
    low, high = interval(value)
    slack = EDGE * documents
    return range(math.ceil(low * documents - slack), math.floor(high * documents + slack) + 1)


def nearest_counts(value: PublishedValue, documents: int) -> range:
    """`counts`, or the nearest count where no share of `documents` prints as `value` does."""
    found = counts(value, documents)
    nearest = round(value.expected * documents)
    return found or range(nearest, nearest + 1)
