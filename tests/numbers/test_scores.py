"""Documents and aggregates are scored again as lm-eval scores them, and as they are counted by hand."""

from __future__ import annotations

import math
import statistics
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scanproof.numbers.verdict.scores import (
    MissingEvidenceError,
    find_aggregate,
    find_bootstrap_stderr,
    find_mass,
    find_stderr,
    score_documents,
)
from tests.support.builders import answered

NATS = st.floats(min_value=-300, max_value=-1e-3)


def test_the_likeliest_answer_counts_and_per_character_another_may() -> None:
    task = answered([-4.0, -5.0], [-3.0, -2.0], right=((0,), (0,)), lengths=((4, 10), (10, 5)))
    assert score_documents(task, "acc") == (1.0, 0.0)
    assert score_documents(task, "acc_norm") == (0.0, 1.0)


def test_of_equal_answers_the_first_counts() -> None:
    task = answered([-1.0, -1.0], [-1.0, -1.0], right=((0,), (1,)))
    assert score_documents(task, "acc") == (1.0, 0.0)


def test_a_single_answer_is_right_where_the_model_would_say_it_itself() -> None:
    task = answered([-0.5], [-0.1], greedy=(False, True))
    assert score_documents(task, "acc") == (0.0, 1.0)
    assert score_documents(task, "perplexity") == (-0.5, -0.1)


def test_mass_is_the_probability_of_the_right_answers() -> None:
    task = answered([math.log(0.1), math.log(0.3), math.log(0.1)], right=((0, 2),))
    assert score_documents(task, "acc", binary=False) == pytest.approx((0.4,))


@given(st.lists(NATS, min_size=2, max_size=8), NATS)
def test_mass_does_not_depend_on_what_all_answers_share(answers: list[float], shift: float) -> None:
    moved = [answer + shift for answer in answers]
    assert find_mass(moved, [0]) == pytest.approx(find_mass(answers, [0]))
    assert find_mass(answers, range(len(answers))) == pytest.approx(1.0)


@given(st.lists(st.lists(NATS, min_size=4, max_size=4), min_size=2, max_size=30))
def test_scores_are_those_of_lm_evals_formulas(answers: list[list[float]]) -> None:
    import numpy as np

    lengths = tuple((3, 17, 8, 29) for _ in answers)
    task = answered(*answers, right=((2,),) * len(answers), lengths=lengths)
    plain = [float(np.argmax(each) == 2) for each in answers]
    normed = [float(np.argmax(np.array(each) / np.array(lengths[0], float)) == 2) for each in answers]
    assert score_documents(task, "acc") == tuple(plain)
    assert score_documents(task, "acc_norm") == tuple(normed)
    assert find_aggregate(plain, "acc") == pytest.approx(sum(plain) / len(plain), abs=1e-15)


@given(st.lists(st.lists(st.sampled_from([0.0, 1.0]), min_size=2, max_size=40), min_size=1, max_size=6))
def test_standard_errors_are_those_of_lm_eval(groups: list[list[float]]) -> None:
    sizes = [len(group) for group in groups]
    errors = [statistics.stdev(group) / math.sqrt(len(group)) for group in groups]
    pooled = sum((n - 1) * error**2 * n for n, error in zip(sizes, errors, strict=True)) / (sum(sizes) - len(sizes))
    assert find_stderr(groups) == pytest.approx(math.sqrt(pooled / sum(sizes)), abs=1e-15)


def test_perplexity_is_of_the_mean_and_not_the_mean_of_perplexities() -> None:
    assert find_aggregate([-1.0, -3.0], "perplexity") == pytest.approx(math.exp(2.0))


def test_one_document_has_no_standard_error() -> None:
    assert find_stderr([[1.0]]) is None


@pytest.mark.parametrize(
    ("metric", "kept", "missing"),
    [
        ("acc", {}, "which answers are right"),
        ("acc_norm", {"right": ((0,), (0,))}, "the lengths of the answers"),
        ("acc", {"right": ((0,), None)}, "which answers are right"),
        ("f1", {"right": ((0,), (0,))}, "no rule says how f1 follows"),
        ("perplexity", {"right": ((0,), (0,))}, "no rule says how perplexity follows"),
    ],
)
def test_what_was_not_kept_is_named(metric: str, kept: dict[str, object], missing: str) -> None:
    with pytest.raises(MissingEvidenceError, match=f"task: .*{missing}"):
        score_documents(answered([-1.0, -2.0], [-1.0, -2.0], **kept), metric)


@pytest.mark.parametrize("surprises", [0, 5, 20])
def test_the_standard_error_of_a_perplexity_is_that_of_draws_also_where_few_documents_have_most(surprises: int) -> None:
    rng = Random(0)
    scores = [-15.0] * surprises + [-rng.random() for _ in range(200 - surprises)]
    drawn = [find_aggregate(rng.choices(scores, k=200), "perplexity") for _ in range(4000)]
    assert find_bootstrap_stderr(scores) == pytest.approx(statistics.stdev(drawn), rel=0.1)


def test_a_standard_error_of_nothing_or_beyond_all_numbers_is_no_exception() -> None:
    assert find_bootstrap_stderr([-1.0]) is None
    assert find_bootstrap_stderr([-2.0, -2.0]) == 0.0
    assert find_bootstrap_stderr([-1.0, -1e6]) == math.inf


@pytest.mark.parametrize("scores", [[-710.0, -710.0], [-1.7e308, -1.7e308]])
def test_a_perplexity_beyond_all_numbers_is_infinite_and_no_exception(scores: list[float]) -> None:
    assert find_aggregate(scores, "perplexity") == math.inf
