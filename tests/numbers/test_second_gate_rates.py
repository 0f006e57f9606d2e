"""The second gate's promises, by simulation: clean nights are quiet, and what the first gate lets pass is caught."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import pytest
from numpy.typing import NDArray

from scanproof.numbers.expected.constants import DRIFT, FIRST_GATE, JOINT, SECOND_GATE
from scanproof.numbers.expected.reader import Expected
from scanproof.numbers.values import PublishedValue
from scanproof.numbers.verdict import paired_tests
from scanproof.numbers.verdict.tolerance import allowance
from tests.support.rates import NIGHTS, upper_limit

Counts = NDArray[np.int64]


def net(random: np.random.Generator, documents: int, flip_rate: float) -> tuple[Counts, Counts]:
    """Documents gained and lost in each night; int64 [NIGHTS] each."""
    flipped = random.binomial(documents, flip_rate, NIGHTS)
    gained = random.binomial(flipped, 0.5)
    return gained, flipped - gained


def alarmed(gained: Counts, lost: Counts, level: float) -> NDArray[np.bool_]:
    """Nights on which McNemar's exact test reports these flips."""
    pairs = {(int(a), int(b)) for a, b in zip(gained, lost, strict=True)}
    bad = {pair for pair in pairs if paired_tests.mcnemar(*pair) <= level}
    return np.array([(int(a), int(b)) in bad for a, b in zip(gained, lost, strict=True)])


def summed(found: list[tuple[Counts, Counts]]) -> tuple[Counts, Counts]:
    """Documents gained and lost in several numbers together."""
    return np.sum([gained for gained, _ in found], axis=0), np.sum([lost for _, lost in found], axis=0)


@pytest.mark.parametrize("flip_rate", [0.0005, 0.02, 0.2], ids=["quiet", "as calibrated", "ten times noisier"])
def test_ten_thousand_clean_nights_of_all_published_numbers_are_quiet(
    expected: Expected, numbers: list[PublishedValue], flip_rate: float
) -> None:
    """Numbers, models and the night, flips and shifts: together within their shares, whatever the noise's size."""
    random = np.random.default_rng(2027)
    constants = expected.constants
    alarms = np.zeros(NIGHTS, dtype=bool)
    by_model: dict[str, list[tuple[Counts, Counts]]] = {}
    for value in numbers:
        if value.metric == "perplexity" or value.documents is None:
            # A symmetric shift: the same bound for every size of the differences.
            continue
        gained, lost = net(random, value.documents, flip_rate)
        alarms |= alarmed(gained, lost, constants.second_level / 2)
        if value.metric == "acc" and not value.parts:
            by_model.setdefault(value.hub_id, []).append((gained, lost))
    level = constants.joint_level(len(by_model))
    totals = [summed(found) for found in by_model.values()]
    for gained, lost in totals:
        alarms |= alarmed(gained, lost, level / 2)
    alarms |= alarmed(*summed(totals), constants.night_level / 2)
    share = (SECOND_GATE + JOINT) * constants.false_alarm_rate
    assert upper_limit(int(alarms.sum()), NIGHTS) <= share


def test_the_shares_are_the_whole_and_each_is_used() -> None:
    assert math.isclose(FIRST_GATE + SECOND_GATE + JOINT + DRIFT, 1)
    assert min(FIRST_GATE, SECOND_GATE, JOINT, DRIFT) > 0


def large(numbers: list[PublishedValue]) -> Iterator[PublishedValue]:
    """Numbers of many documents, the harness the same: one of each size."""
    seen: set[int] = set()
    for value in numbers:
        if value.harness == "same" and value.counts_documents and (value.documents or 0) >= 5000:
            if value.documents not in seen:
                yield value
            seen.add(value.documents or 0)


def test_a_drop_that_the_first_gate_lets_pass_is_caught_by_the_second(
    expected: Expected, numbers: list[PublishedValue]
) -> None:
    """On a machine that flips one document in 500, nine tenths of what the first gate allows is always caught."""
    random = np.random.default_rng(80)
    found = list(large(numbers))
    assert len(found) >= 3
    for value in found:
        allowed = allowance(value, expected.constants).total
        documents = value.documents or 0
        dropped = math.floor(0.9 * allowed * documents)
        gained, lost = net(random, documents, 0.002)
        caught = alarmed(gained, lost + dropped, expected.constants.second_level / 2)
        assert caught.mean() > 0.99, value.id


def test_margins_see_a_change_of_a_hundredth_of_a_nat(expected: Expected) -> None:
    """1,838 documents as piqa has, noise of 0.05 nats each: no answer need flip for it."""
    random = np.random.default_rng(5)
    constants = expected.constants
    caught = [
        paired_tests.shift_test(
            "margins", [list(random.normal(-0.012, 0.05, 1838))], constants.second_level / 2,
            margin=constants.perplexity_sd,
        ).changed
        for _ in range(200)
    ]  # fmt: skip
    assert np.mean(caught) > 0.9


def test_a_shift_of_the_margin_is_never_reported_more_often_than_promised(expected: Expected) -> None:
    """The worst case of the hypothesis: all documents shifted by exactly what is allowed, noise of any size."""
    random = np.random.default_rng(6)
    margin = expected.constants.perplexity_sd
    for spread in (1e-6, 0.002, 0.05):
        noise = random.normal(margin, spread, (4000, 300))
        alarms = sum(paired_tests.shift_p_value(list(row), margin) <= 0.05 for row in noise)
        assert upper_limit(alarms, 4000) <= 0.05, spread
