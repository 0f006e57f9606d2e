"""Paired tests: what follows from symmetry alone, and that it holds."""

from __future__ import annotations

import math
from itertools import product
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scanproof.numbers.verdict import paired_tests
from scanproof.numbers.verdict.paired_tests import ComparisonOutcome
from tests.support.late import Late

if TYPE_CHECKING:
    from scipy import stats
else:
    stats = Late("scipy.stats")

COUNTS = st.integers(0, 400)
MOVES = st.lists(st.floats(-50, 50).map(lambda x: round(x, 6)), min_size=1, max_size=60)


@given(COUNTS, COUNTS)
def test_mcnemar_is_the_exact_test_of_a_fair_coin(gained: int, lost: int) -> None:
    exact = stats.binomtest(gained, gained + lost).pvalue if gained + lost else 1.0
    assert paired_tests.mcnemar(gained, lost) == pytest.approx(exact, rel=1e-9)
    assert paired_tests.mcnemar(gained, lost) == paired_tests.mcnemar(lost, gained)


@given(COUNTS, COUNTS)
def test_losing_one_more_document_is_never_less_suspicious(gained: int, lost: int) -> None:
    if lost >= gained:
        assert paired_tests.mcnemar(gained, lost + 1) <= paired_tests.mcnemar(gained, lost)


@pytest.mark.parametrize(("gained", "lost", "caught"), [(0, 20, False), (0, 21, True), (21, 0, True), (40, 60, False)])
def test_how_many_documents_the_second_gate_needs(gained: int, lost: int, caught: bool) -> None:
    """Half of the number's level of 3e-6, for one of its two tests."""
    assert paired_tests.flips_test(gained, lost, 1000, 1.5e-6).changed is caught


@given(MOVES, st.floats(0, 1))
def test_a_shift_up_is_as_suspicious_as_the_same_shift_down(moves: list[float], margin: float) -> None:
    assert paired_tests.shift_p_value(moves, margin) == paired_tests.shift_p_value([-d for d in moves], margin)


@given(MOVES, st.floats(0, 1), st.floats(0, 1))
def test_a_wider_margin_never_finds_more(moves: list[float], first: float, second: float) -> None:
    low, high = sorted((first, second))
    assert paired_tests.shift_p_value(moves, low) <= paired_tests.shift_p_value(moves, high) * (1 + 1e-9)


@given(MOVES, st.integers(-8, 8))
def test_the_unit_of_the_differences_does_not_matter(moves: list[float], power: int) -> None:
    assert paired_tests.shift_p_value([d * 2.0**power for d in moves]) == pytest.approx(
        paired_tests.shift_p_value(moves)
    )


@given(st.floats(0, 10), st.floats(0, 10))
def test_the_tail_falls_with_the_statistic(first: float, second: float) -> None:
    low, high = sorted((first, second))
    assert paired_tests.symmetric_tail(high) <= paired_tests.symmetric_tail(low) <= 1


@given(st.lists(st.floats(0.01, 100), min_size=1, max_size=10))
def test_the_tail_is_never_below_the_one_over_all_signs(sizes: list[float]) -> None:
    """Conditional on the sizes, all signs are equally likely: the exact distribution, by enumeration."""
    values = [paired_tests.self_normalised(s * d for s, d in zip(signs, sizes, strict=True))
              for signs in product((1, -1), repeat=len(sizes))]  # fmt: skip
    for value in values:
        exact = sum(other >= value - 1e-12 for other in values) / len(values)
        assert paired_tests.symmetric_tail(value) >= exact - 1e-12


@pytest.mark.parametrize("tails", [1.5, 3.0, math.inf], ids=["wild", "heavy", "normal"])
def test_noise_of_any_shape_is_quiet(tails: float) -> None:
    """100,000 clean comparisons of 200 documents; the promise is an upper bound, also where no variance exists."""
    random = np.random.default_rng(7)
    noise = random.normal(size=(100_000, 200)) if tails == math.inf else random.standard_t(tails, (100_000, 200))
    statistic = noise.sum(axis=1) / np.sqrt((noise**2).sum(axis=1))
    for level in (0.05, 0.01, 0.001):
        reached = np.array([paired_tests.symmetric_tail(x) for x in np.sort(np.abs(statistic))[-8000:]])
        assert np.sum(2 * reached <= level) / 100_000 <= level


def test_documents_of_one_task_do_not_outweigh_those_of_another() -> None:
    """A shift in a task of small differences is seen beside a task of large, balanced ones."""
    loud = [50.0, -50.0] * 200
    quiet = [0.02, 0.03, 0.025, 0.021] * 50
    assert paired_tests.shift_p_value([*loud, *quiet]) > 0.1
    assert paired_tests.pooled_shift_p_value([loud, quiet]) < 1e-12


def test_nothing_moved_is_no_evidence() -> None:
    assert paired_tests.mcnemar(0, 0) == paired_tests.shift_p_value([0.0] * 10) == paired_tests.shift_p_value([]) == 1
    assert paired_tests.pooled_shift_p_value([[], [0.0]]) == 1


def test_an_answer_beyond_the_ceiling_is_enough() -> None:
    assert not paired_tests.noise_test([1e-4, -9e-4, 0.0], 1e-3).changed
    found = paired_tests.noise_test([1e-4, -2e-3, math.inf], 1e-3)
    assert found.changed
    assert "2 of 3 answers" in found.because


def test_one_test_that_changed_is_enough_and_is_what_is_said() -> None:
    quiet, loud = paired_tests.flips_test(1, 2, 100, 1e-6), paired_tests.flips_test(0, 40, 100, 1e-6)
    assert paired_tests.conclude("n", "the run r", [quiet]).outcome is ComparisonOutcome.SAME
    found = paired_tests.conclude("n", "the run r", [quiet, loud])
    assert found.changed
    assert "0 documents gained, 40 lost" in found.because
    assert "1 documents gained" not in found.because
