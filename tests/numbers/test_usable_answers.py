"""Answers that are no numbers, or all the same, are found whatever they were scored as."""

from __future__ import annotations

import math
import random
import re
from collections.abc import Callable, Sequence

import pytest

from scanproof.numbers.verdict.answers import TaskSamples
from scanproof.numbers.verdict.usable_answers import explain_unusable
from tests.support.builders import answered

LOG_V = math.log(50280)


def logits_of(answers: Sequence[Sequence[float]], step: float) -> TaskSamples:
    """Answers of one token each, whose logits have a step: two of a document differ by a multiple of it."""
    rounded = []
    for values in answers:
        logits = [round(value / step) * step for value in values]
        rounded.append([value - math.log(sum(map(math.exp, [*logits, 3.0]))) for value in logits])
    return answered(*rounded)


def draw(seed: int, documents: int, choices: int, spread: float = 1.0) -> list[list[float]]:
    """Logits of a model at chance."""
    numbers = random.Random(seed)
    return [[numbers.gauss(0, spread) for _ in range(choices)] for _ in range(documents)]


@pytest.mark.parametrize("broken", [math.nan, math.inf, -math.inf])
def test_an_answer_that_is_no_finite_number_is_counted_and_its_document_named(broken: float) -> None:
    task = answered(*([-1.0 - place, broken if place in (3, 7) else -2.5 - place] for place in range(20)))
    told = explain_unusable([task], "float32")
    assert told is not None
    assert f"2 of 40 answers are no finite number (2 {broken})" in told
    assert "in 2 of 20 documents: task 3, 7" in told


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_an_answer_that_is_likelier_than_certain_is_none(dtype: str) -> None:
    """Logits that were never normalised choose the same answers."""
    logits = answered(*draw(2, 50, 2))
    told = explain_unusable([logits], dtype)
    assert told is not None
    assert re.match(r"answers to \d+ documents have a log-likelihood above 0: task \d+, ", told)
    # Rounding makes no log-softmax positive: the largest term of its sum is exactly 1.
    certain = answered([0.0, -9.0], *([-place * 0.3, -9.0 - place / 7] for place in range(1, 50)))
    assert explain_unusable([certain], dtype) is None
    above = answered([1e-6, -9.0], *([-place * 0.3, -9.0 - place / 7] for place in range(1, 50)))
    assert explain_unusable([above], dtype) == "answers to 1 documents have a log-likelihood above 0: task 0"


def test_only_the_first_documents_are_named() -> None:
    told = explain_unusable([answered(*([math.nan, math.nan] for _ in range(400)))], "float32")
    assert told is not None
    assert told.startswith("800 of 800 answers are no finite number (800 nan), in 400 of 400 documents")
    assert told.endswith("task 0, 1, 2, 3, 4 and 395 more")


def test_a_document_without_an_answer_is_none() -> None:
    told = explain_unusable([answered([-1.0, -2.0], [])], "float32")
    assert told == "1 documents got no answer: task 1"


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize(
    "tokens",
    [
        pytest.param(lambda numbers: [1, 1], id="as_many_tokens_each"),
        pytest.param(lambda numbers: [numbers.randint(3, 12), numbers.randint(3, 12)], id="two_long_answers"),
        pytest.param(lambda numbers: [numbers.randint(3, 9) for _ in range(4)], id="four_long_answers"),
        pytest.param(lambda numbers: [numbers.randint(1, 4)], id="one_answer"),
    ],
)
def test_equal_logits_are_no_answers(tokens: Callable[[random.Random], list[int]], dtype: str) -> None:
    """Every answer of n tokens then gets -n log V, rounded by its dtype or not."""
    numbers = random.Random(5)
    task = answered(*([-LOG_V * count for count in tokens(numbers)] for _ in range(200)))
    assert explain_unusable([task], dtype) is not None


def test_a_few_documents_whose_answers_are_all_equal_are_too_many_in_float32() -> None:
    answers = [[value - 9 for value in values] for values in draw(1, 400, 4)]
    for place in range(100, 108):
        answers[place] = [-1.5] * 4
    told = explain_unusable([answered(*answers)], "float32")
    assert told is not None
    assert told.startswith("all answers are exactly equal in 8 of 400 documents")
    assert "task 100, 101, 102, 103, 104 and 3 more" in told


@pytest.mark.parametrize(
    ("dtype", "step"), [("bfloat16", 0.125), ("bfloat16", 0.0625), ("float16", 1 / 64), ("float32", 2.0**-19)]
)
@pytest.mark.parametrize("choices", [2, 4])
@pytest.mark.parametrize("spread", [0.2, 1.0, 3.0])
def test_the_steps_of_a_dtype_make_ties_that_are_none(dtype: str, step: float, choices: int, spread: float) -> None:
    for seed in range(20):
        task = logits_of(draw(seed, 500, choices, spread), step)
        assert explain_unusable([task], dtype) is None


def test_bfloat16_ties_are_many_where_float32_has_none() -> None:
    answers = draw(3, 3000, 2)
    coarse = logits_of(answers, 0.125)
    assert sum(first == second for first, second in coarse.loglikelihoods) > 50
    assert explain_unusable([coarse], "bfloat16") is None
    assert explain_unusable([coarse], "float32") is not None


def test_documents_that_are_in_a_dataset_twice_are_no_fault() -> None:
    answers = [[value - 9 for value in values] for values in draw(4, 200, 2)]
    assert explain_unusable([answered(*answers, *answers[:20])], "float32") is None
