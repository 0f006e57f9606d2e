"""What the simulations of both gates share: the published numbers, nights, and the limit of a rate."""

from __future__ import annotations

from pathlib import Path

import pytest

from scanproof.numbers.expected.reader import Expected, load
from scanproof.numbers.values import PublishedValue

NIGHTS = 10_000


@pytest.fixture(scope="session")
def expected() -> Expected:
    """The expected values of this repository."""
    return load(Path(__file__).parents[2] / "expected")


@pytest.fixture(scope="session")
def numbers(expected: Expected) -> list[PublishedValue]:
    """The published ones, without the stand-ins'."""
    return [value for value in expected.values if value.job.suite == "gpu"]


def upper_limit(alarms: int, nights: int) -> float:
    """99% upper confidence limit of a rate."""
    from scipy import stats

    return float(stats.beta.ppf(0.99, alarms + 1, nights - alarms))
