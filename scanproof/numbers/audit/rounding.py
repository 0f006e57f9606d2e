"""The values and the counts of documents that are printed as a given number."""

from __future__ import annotations

import math

from scanproof.numbers.values import PublishedValue

EDGE = 1e-9
"""Tolerance at the ends of a rounding interval: 0.36325 can be printed as 0.3632 or 0.3633."""


def interval(value: PublishedValue) -> tuple[float, float]:
    """Lowest and highest value, in natural units, that rounds to the printed number."""
    return value.expected - value.half_unit, value.expected + value.half_unit


def stderr_interval(value: PublishedValue) -> tuple[float, float]:
    """Lowest and highest standard error that rounds to the printed one; raises ValueError when none was printed."""
    if value.stderr is None:
        raise ValueError(f"{value.id} has no printed standard error")
    places = len(value.stderr.partition(".")[2])
    half = 0.5 * 10.0**-places / value.scale
    centre = float(value.stderr) / value.scale
    return max(0.0, centre - half), centre + half


def counts(value: PublishedValue, documents: int) -> range:
    """Every k for which k / documents rounds to the printed number; empty when there is none."""
    low, high = interval(value)
    slack = EDGE * documents
    return range(math.ceil(low * documents - slack), math.floor(high * documents + slack) + 1)


def nearest_counts(value: PublishedValue, documents: int) -> range:
    """`counts`; where it is empty, the nearest count alone."""
    nearest = round(value.expected * documents)
    return counts(value, documents) or range(nearest, nearest + 1)
