"""A NaN shows in what depends on it, and in no other row of the batch.

Each fault is planted into a correct implementation, which itself raises no alarm.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

from scanproof.kernels import cases
from tests.support.late import Late

if TYPE_CHECKING:
    import torch

    from scanproof.faults import correct, kept
    from scanproof.kernels import nan_spread, operation_table
else:
    torch, correct, kept = Late("torch"), Late("scanproof.faults.correct"), Late("scanproof.faults.kept")
    nan_spread, operation_table = Late("scanproof.kernels.nan_spread"), Late("scanproof.kernels.operation_table")

Call = Callable[..., Any]
ALL = {case.id: case for case in cases.load()}
SCAN, NORM = "selective_scan_fn-gradients-l129-float32", "rms_norm_fn-residual-d100-float16"
STEP = "selective_state_update-groups-g2-bfloat16"


def find(case_id: str, spoil: Callable[[Call, dict[str, Any]], Any]) -> list[str]:
    """What a NaN shows of a correct implementation whose call goes through `spoil`; without the id of the case."""
    case = ALL[case_id]
    op = operation_table.find_operation(case.op)
    call = correct.make_correct(op, seed=1)
    lines = nan_spread.find_wrong_nan(op, case, lambda **given: spoil(call, given))
    assert all(line.startswith(f"{case_id}: a NaN in ") for line in lines)
    return [line.removeprefix(f"{case_id}: a NaN in ") for line in lines]


def hide_in_result(call: Call, given: dict[str, Any]) -> Any:
    y, *rest = call(**given)
    return torch.nan_to_num(y), *rest


def hide_in_argument(name: str) -> Callable[[Call, dict[str, Any]], Any]:
    return lambda call, given: call(**{**given, name: torch.nan_to_num(given[name])})


def clamp_step(call: Call, given: dict[str, Any]) -> Any:
    """As the larger of two numbers on a GPU, which is a number where one of them is none."""
    return call(**{**given, "delta": torch.fmax(given["delta"], torch.tensor(-1e9))})


def spread_over_rows(call: Call, given: dict[str, Any]) -> Any:
    """A running maximum of all rows, say, that is taken off and added again."""
    y, *rest = call(**given)
    return y + 0 * y.sum(), *rest


@pytest.mark.parametrize("case_id", [SCAN, NORM, STEP])
def test_a_correct_implementation_raises_no_alarm(case_id: str) -> None:
    assert find(case_id, lambda call, given: call(**given)) == []


@pytest.mark.parametrize("name", ["x", "weight", "residual"])
def test_a_nan_in_an_argument_that_becomes_a_number_is_named(name: str) -> None:
    lines = find(NORM, hide_in_argument(name))
    assert [line.partition(" numbers of ")[0].rpartition(" in ")[0] for line in lines if "of out that" in line] == [
        f"{name} is hidden"
    ]


def test_a_result_whose_nan_become_numbers_is_named() -> None:
    lines = find(NORM, hide_in_result)
    assert {line.partition(" ")[0] for line in lines} == {"x", "weight", "residual"}
    assert all("numbers of out that depend on it: out[" in line for line in lines)
    assert all(line.endswith(" is 0") for line in lines)


def test_a_clamped_step_hides_it() -> None:
    lines = find(SCAN, clamp_step)
    assert {line.partition(" ")[0] for line in lines} == {"delta"}


def test_a_state_that_is_changed_in_place_is_judged_as_well() -> None:
    lines = find(STEP, lambda call, given: (call(**given), given["state"].nan_to_num_())[0])
    assert any("numbers of state that depend on it" in line for line in lines)


def test_a_nan_that_reaches_another_row_is_named() -> None:
    lines = find(NORM, spread_over_rows)
    assert "x reaches row 1 of out, which does not depend on it" in lines
    assert not any(line.startswith("weight") for line in lines), "every row depends on the weight"


def test_a_state_of_the_last_inputs_is_asked_where_it_depends_on_them() -> None:
    lines = find("causal_conv1d_varlen_states-edge-d300-s4-float32", kept.nan_hidden)
    assert [line.partition(" in 1 of 1 ")[0] for line in lines] == ["x is hidden"]
