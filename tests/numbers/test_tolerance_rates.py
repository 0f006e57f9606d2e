"""The two promises of the tolerance, by simulation: clean nights are quiet, and stated changes are caught."""

from __future__ import annotations

import math
from collections.abc import Iterator
from statistics import NormalDist
from typing import TYPE_CHECKING

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from scanproof.numbers.expected.constants import Constants
from scanproof.numbers.expected.reader import Expected
from scanproof.numbers.values import PublishedValue
from scanproof.numbers.verdict.flip_bounds import net_flips, net_mass
from scanproof.numbers.verdict.tolerance import allowance
from tests.support.late import Late
from tests.support.rates import NIGHTS, upper_limit

if TYPE_CHECKING:
    from scipy import stats
else:
    stats = Late("scipy.stats")

Floats = NDArray[np.float64]

LEVEL = 1e-5
FEW_TO_MANY = [0.01, 0.1, 0.5, 1, 2, 5, 10, 30, 100, 1000, 10_000]


def used_rate(value: PublishedValue, constants: Constants) -> float:
    return constants.flip_rate_same if value.harness == "same" else constants.flip_rate_other


def net_share(random: np.random.Generator, documents: int, flip_rate: Floats | float, size: int) -> Floats:
    """Documents gained minus lost over all documents, when each flips alone; float64 [size]."""
    flipped = random.binomial(documents, flip_rate, size)
    net: Floats = (2 * random.binomial(flipped, 0.5) - flipped) / documents
    return net


def correct_runs(
    random: np.random.Generator, value: PublishedValue, constants: Constants, size: int, flip_rate: Floats | float
) -> Floats:
    """Measured minus true, before print, of `size` correct runs; float64 [size], natural unit."""
    if value.metric == "perplexity":
        sd = constants.perplexity_sd * math.sqrt(used_rate(value, constants) / constants.flip_rate_same)
        return value.expected * random.normal(0, sd, size)
    if value.task == "average":
        nets = [net_share(random, part.documents or 0, flip_rate, size) for part in value.parts]
        return np.asarray(np.mean(nets, axis=0))
    assert value.documents is not None
    return net_share(random, value.documents, flip_rate, size)


def rounding(random: np.random.Generator, value: PublishedValue, size: int) -> Floats:
    return random.uniform(-value.half_unit, value.half_unit, size)


def assert_quiet(alarms: NDArray[np.bool_], promised: float) -> None:
    """The 99% upper confidence limit of the simulated rate of noisy nights lies below the promise.

    So the simulation shows the promise, and does not merely fail to contradict it.
    """
    assert upper_limit(int(alarms.sum()), alarms.size) <= promised


def test_ten_thousand_clean_nights_of_all_published_numbers_are_quiet(
    expected: Expected, numbers: list[PublishedValue]
) -> None:
    """At most 1 night in 100 may report anything; by the union bound 1000 numbers at 1e-5 give 1%."""
    random = np.random.default_rng(2026)
    constants = expected.constants
    alarms = np.zeros(NIGHTS, dtype=bool)
    for value in numbers:
        noise = correct_runs(random, value, constants, NIGHTS, used_rate(value, constants))
        alarms |= np.abs(noise + rounding(random, value, NIGHTS)) > allowance(value, constants).total
    assert 0 < len(numbers) <= constants.checks
    assert_quiet(alarms, constants.false_alarm_rate)


def test_clean_nights_are_quiet_when_each_model_flips_at_a_rate_of_its_own(
    expected: Expected, numbers: list[PublishedValue]
) -> None:
    """Every night draws the rates of all models anew, as unlike as those of the calibration."""
    calibration = yaml.safe_load((expected.folder / "tolerance.yaml").read_text())["flip_rate"]
    same, other = (calibration[key]["calibration"] for key in ("same", "other"))
    random = np.random.default_rng(75)
    models = {value.hub_id for value in numbers}
    rates = {
        model: same["median_of_models"] * np.exp(random.normal(0, same["sd_of_logarithm"], NIGHTS))
        for model in sorted(models)
    }
    alarms = np.zeros(NIGHTS, dtype=bool)
    for value in numbers:
        ratio = 1.0 if value.harness == "same" else other["ratio_upper_limit"]
        flip_rate = np.minimum(ratio * rates[value.hub_id], 1)
        noise = correct_runs(random, value, expected.constants, NIGHTS, flip_rate)
        alarms |= np.abs(noise + rounding(random, value, NIGHTS)) > allowance(value, expected.constants).total
    assert_quiet(alarms, expected.constants.false_alarm_rate)


def sample(numbers: list[PublishedValue]) -> Iterator[PublishedValue]:
    """One value of each shape: documents, digits, metric, kind of aggregate, harness."""
    seen = set()
    for value in numbers:
        shape = (
            value.documents,
            value.half_unit,
            value.metric == "perplexity",
            bool(value.parts),
            value.harness,
        )
        if shape not in seen:
            seen.add(shape)
            yield value


def test_a_change_of_the_stated_size_is_caught_with_the_stated_power(
    expected: Expected, numbers: list[PublishedValue]
) -> None:
    """In both directions and with the print rounded the worst way; three standard errors for the simulation."""
    random = np.random.default_rng(80)
    power, trials = expected.constants.power, 20_000
    slack = 3 * math.sqrt(power * (1 - power) / trials)
    for value in sample(numbers):
        allowed = allowance(value, expected.constants)
        flip_rate = used_rate(value, expected.constants)
        noise = correct_runs(random, value, expected.constants, trials, flip_rate)
        for change, hidden in (
            (allowed.detectable, -value.half_unit),
            (-allowed.detectable, value.half_unit),
        ):
            caught = np.mean(np.abs(change + hidden + noise) > allowed.total)
            assert caught >= power - slack, value.id
        three_quarters = np.abs(0.75 * allowed.detectable - value.half_unit + noise) > allowed.total
        assert np.mean(three_quarters) < power, f"{value.id} detects much less than it says"


@pytest.mark.parametrize("flips", FEW_TO_MANY)
def test_the_exact_tail_of_net_flips_is_never_above_the_level(flips: float) -> None:
    bound = net_flips(flips, LEVEL / 2)
    assert stats.skellam.sf(math.floor(bound), flips / 2, flips / 2) <= LEVEL / 2
    assert net_flips(flips, LEVEL / 2) <= net_mass(((flips, 1.0),), LEVEL / 2)


@pytest.mark.parametrize("flips", FEW_TO_MANY)
def test_the_bound_gives_away_less_than_one_document_in_twenty(flips: float) -> None:
    counts = np.arange(0, int(net_flips(flips, LEVEL / 2)) + 2)
    tails = stats.skellam.sf(counts, flips / 2, flips / 2)
    smallest = int(counts[tails <= LEVEL / 2][0])
    assert math.floor(net_flips(flips, LEVEL / 2)) <= smallest * 1.05 + 1


@pytest.mark.parametrize(("flips", "too_often"), [(0.1, 100), (1, 10), (10, 3)])
def test_the_normal_quantile_is_too_narrow_for_few_flips(flips: float, too_often: float) -> None:
    """Why allowed is not simply z * sqrt(q / N)."""
    quantile = NormalDist().inv_cdf(1 - LEVEL / 2) * math.sqrt(flips)
    assert stats.skellam.sf(math.floor(quantile), flips / 2, flips / 2) > too_often * LEVEL / 2


def test_the_bound_becomes_the_normal_quantile_for_many_flips() -> None:
    z = NormalDist().inv_cdf(1 - LEVEL / 2)
    assert net_flips(1e6, LEVEL / 2) / 1e3 == pytest.approx(z, rel=3e-3)


@given(st.floats(1e-3, 1e4), st.floats(1e-3, 1e4), st.floats(1e-9, 0.4))
def test_the_bound_grows_with_flips_and_falls_per_document(first: float, second: float, tail: float) -> None:
    low, high = sorted((first, second))
    assert net_flips(low, tail) <= net_flips(high, tail) * (1 + 1e-9)
    assert net_flips(high, tail) / high <= net_flips(low, tail) / low * (1 + 1e-9)


def test_nothing_flips_nothing_moves() -> None:
    assert net_flips(0.0, LEVEL) == 0
    assert net_mass(((0.0, 1.0),), LEVEL) == 0


def test_a_sum_of_weighted_flips_stays_within_its_bound() -> None:
    """Tasks of different sizes in a plain mean; an exact bound, so the simulation may not exceed it."""
    random = np.random.default_rng(5)
    terms = ((5.0, 0.01), (20.0, 0.002), (1.0, 0.05))
    total = np.zeros(400_000)
    for flips, weight in terms:
        total += weight * (random.poisson(flips / 2, total.size) - random.poisson(flips / 2, total.size))
    for tail in (0.2, 0.01, 1e-4):
        assert np.mean(total > net_mass(terms, tail)) <= tail
