"""How the ceiling of rounding follows from the largest move that was measured."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scanproof.numbers.verdict import rounding
from scanproof.numbers.verdict.rounding import HIGHEST_CEILING, MARGIN, MeasuredRounding, find_ceiling, read_table
from scanproof.record import Evaluation
from tests.support.builders import JOB

ROW = MeasuredRounding(name="n", checkpoint="o/n", model="hf", answers=1, largest=2e-5, recorded="0")


def evaluate(**fields: str) -> Evaluation:
    """An evaluation of a stand-in's job on a CPU."""
    job = replace(JOB, **{"suite": "embedded", "dtype": "float32", "device": "cpu"} | fields)  # type: ignore[arg-type]
    return Evaluation(job=job, key="k", measurements=(), samples="", command="")


@given(st.floats(1e-9, 4e-5))
def test_the_ceiling_is_twice_the_largest_move_rounded_up(largest: float) -> None:
    ceiling = replace(ROW, largest=largest).ceiling
    assert MARGIN * largest <= ceiling * (1 + 1e-12)
    assert ceiling <= MARGIN * largest * 1.01 + 1e-12
    assert float(f"{ceiling:.2e}") == ceiling


def test_a_model_that_was_not_measured_has_the_highest_ceiling_of_a_stand_in() -> None:
    assert find_ceiling(evaluate(pretrained="o/unknown")) == HIGHEST_CEILING == 1e-4


@pytest.mark.parametrize("largest", [1.0, math.inf, math.nan])
def test_no_row_of_the_table_lifts_the_highest_ceiling(monkeypatch: pytest.MonkeyPatch, largest: float) -> None:
    (key, row), *_ = read_table().items()
    monkeypatch.setattr(rounding, "read_table", lambda: {key: replace(row, largest=largest)})
    assert find_ceiling(evaluate(pretrained=row.checkpoint, model=row.model)) == HIGHEST_CEILING


def test_of_two_evaluations_the_higher_ceiling_holds_and_none_where_one_was_not_measured() -> None:
    low, high = sorted(read_table().values(), key=lambda row: row.ceiling)[:: len(read_table()) - 1]
    both = [evaluate(pretrained=row.checkpoint, model=row.model) for row in (low, high)]
    assert find_ceiling(*both) == find_ceiling(*reversed(both)) == high.ceiling
    assert find_ceiling(both[0]) == low.ceiling
    assert find_ceiling(both[0], evaluate(pretrained="o/n", device="cuda:0")) is None
