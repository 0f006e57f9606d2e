"""Numbers computed from other numbers."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scanproof.numbers.values import Part
from scanproof.numbers.verdict import derive
from scanproof.numbers.verdict.derive import DeriveError
from scanproof.numbers.verdict.measurement import Measurement
from tests.support.builders import published

PARTS = (Part(task="mmlu_a", metric="acc", documents=100), Part(task="mmlu_b", metric="acc", documents=300))
POOLED = published(task="mmlu", parts=PARTS, pooled=True)
MEAN = published(task="average", parts=PARTS)


def measurement(task: str, value: float, n: int = 100) -> Measurement:
    return Measurement(task=task, metric="acc", value=value, stderr=None, n_samples=n)


def test_a_group_weighs_its_parts_by_documents_an_average_does_not() -> None:
    found = (measurement("mmlu_a", 0.2, 100), measurement("mmlu_b", 0.6, 300))
    pooled, mean = derive.derive(POOLED, found), derive.derive(MEAN, found)
    assert pooled.value == pytest.approx(0.5)
    assert mean.value == pytest.approx(0.4)
    assert pooled.n_samples == 400


@given(st.lists(st.tuples(st.floats(0, 1), st.integers(1, 2000)), min_size=2, max_size=2))
def test_a_derived_number_lies_between_its_parts(parts: list[tuple[float, int]]) -> None:
    found = tuple(measurement(part.task, value, n) for part, (value, n) in zip(PARTS, parts, strict=True))
    shares = [value for value, _ in parts]
    for value in (POOLED, MEAN):
        result = derive.derive(value, found).value
        assert min(shares) - 1e-12 <= result <= max(shares) + 1e-12
        assert math.isfinite(result)


def test_a_part_that_was_not_measured_is_named() -> None:
    with pytest.raises(DeriveError, match="mmlu_b/acc"):
        derive.measurement_of(MEAN, (measurement("mmlu_a", 0.2),))


def test_a_harness_that_weighs_the_parts_otherwise_is_found_out() -> None:
    found = (measurement("mmlu_a", 0.2, 100), measurement("mmlu_b", 0.6, 300), measurement("mmlu", 0.4, 400))
    with pytest.raises(DeriveError, match="weighs the parts differently"):
        derive.measurement_of(POOLED, found)


def test_a_plain_number_is_taken_as_measured() -> None:
    value = published(task="mmlu_a")
    assert derive.measurement_of(value, (measurement("mmlu_a", 0.2),)).value == 0.2
    with pytest.raises(DeriveError, match="no acc for mmlu_a"):
        derive.measurement_of(value, ())
