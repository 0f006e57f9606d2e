"""How Mamba-3's results are compared: angles as what they turn by, approximate functions, states taken together."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from scanproof.kernels import cases
from scanproof.kernels.known import KnownDefect
from tests.support.late import Late

if TYPE_CHECKING:
    import torch

    from scanproof.kernels import compare, criterion, inputs, invariants, operation, operation_table
    from scanproof.kernels.references import precision
else:
    torch, compare = Late("torch"), Late("scanproof.kernels.compare")
    criterion, operation_table = Late("scanproof.kernels.criterion"), Late("scanproof.kernels.operation_table")
    inputs, operation = Late("scanproof.kernels.inputs"), Late("scanproof.kernels.operation")
    invariants = Late("scanproof.kernels.invariants")
    precision = Late("scanproof.kernels.references.precision")

ROWS = {(case.op, case.name): case for case in cases.load()}


def wrong_results(name: str, off: float) -> list[str]:
    """The results of a step or scan that fail when its angle is this far off."""
    op, case = operation_table.find_operation(name), ROWS[name, "edge-b3" if "step" in name else "edge-l33"]
    dtypes = [inputs.dtype_of(output, case) for output in op.expected_outputs(case)]

    def call(**arguments: Any) -> tuple[Any, ...]:
        y, angle, *rest = op.reference(**compare.convert_to_float64(arguments))
        return tuple(value.to(dtype) for value, dtype in zip((y, angle + off, *rest), dtypes, strict=True))

    return [each.result for each in compare.compare_case(op, case, call) if not each.passed]


@pytest.mark.parametrize("name", ["mamba3_siso_combined", "mamba3_siso_step"])
def test_an_angle_may_be_a_turn_further_and_no_part_of_one(name: str) -> None:
    angle = {"mamba3_siso_combined": "final_angle_state", "mamba3_siso_step": "angle_state"}[name]
    assert wrong_results(name, 0.0) == wrong_results(name, -2 * math.pi) == []
    assert wrong_results(name, 0.1) == [angle]


def test_the_states_of_a_step_are_held_to_float32() -> None:
    """Nothing in them has to be bfloat16: an angle that was is wrong."""
    op, case = operation_table.find_operation("mamba3_siso_step"), ROWS["mamba3_siso_step", "edge-b3"]

    def call(**arguments: Any) -> tuple[Any, ...]:
        y, *states, v = op.reference(**compare.convert_to_float64(arguments))
        return y.bfloat16(), *(state.bfloat16().float() for state in states), v.bfloat16()

    wrong = [each.result for each in compare.compare_case(op, case, call) if not each.passed]
    assert wrong == ["angle_state", "ssm_state", "k_state"]


def test_approximate_functions_are_off_by_what_is_documented_and_hand_it_on() -> None:
    value = torch.linspace(-4.0, 4.0, 2001).requires_grad_()
    with precision.ApproximateFunctions():
        tanh, sine, cosine = torch.tanh(value), torch.sin(value), torch.cos(value)
        (slope,) = torch.autograd.grad(tanh.sum(), value, retain_graph=True)
    wide = value.detach().double()
    off = ((tanh - torch.tanh(wide)) / torch.tanh(wide)).abs().nan_to_num()
    assert 0.8 * 2.0**-11 < off.max() <= 1.01 * 2.0**-11
    for got, exact in ((sine, torch.sin(wide)), (cosine, torch.cos(wide))):
        assert 0.8 * 2.0**-21 < (got - exact).abs().max() < 1.5 * 2.0**-20.5
    assert torch.allclose(slope, 1 - tanh.detach().square())
    with precision.ApproximateFunctions():
        assert torch.equal(torch.tanh(wide), torch.tanh(wide.clone()))
    assert not torch.equal(tanh.detach(), torch.tanh(value.detach()))


def test_only_a_gpu_has_approximate_functions() -> None:
    op, case = operation_table.find_operation("mamba3_siso_step"), ROWS["mamba3_siso_step", "plain"]
    arguments = compare.draw_inputs(op, case)
    exact = compare.run_reference(op, case, arguments)["angle_state"]
    errors = [
        (compare.run_form(op, case, arguments, device)["angle_state"] - exact).abs().max() for device in ("cpu", "cuda")
    ]
    assert errors[0] < 2e-6 < 1e-5 < errors[1]


def test_states_are_handed_over_together_or_not_at_all() -> None:
    seen: list[Any] = []

    def function(x: int, Input_States: Any = None) -> Any:
        seen.append(Input_States)
        return (x, [1, 2])

    call = operation.take_together("Input_States", ("one", "two"))(function)
    assert call(x=0, one="a", two="b") == (0, 1, 2)
    call(x=0)
    call(x=0, one=None, two=None)
    call(x=0, two="b")
    assert seen == [("a", "b"), None, None, (None, "b")]


def test_what_is_known_to_be_unwritten_is_known_only_while_it_is() -> None:
    known = KnownDefect("it leaves a part", {}, {}, unwritten=("k",))
    exact = torch.ones(8, dtype=torch.float64)
    unwritten, wrong = exact.clone(), exact * 3
    unwritten[3] = float("nan")
    both = wrong.clone()
    both[3] = float("nan")
    compared = {
        name: criterion.compare_result("k", value, [exact.float()], exact, 1e-3)
        for name, value in (("unwritten", unwritten), ("wrong", wrong), ("right", exact), ("both", both))
    }
    assert known.list_differences([compared["unwritten"], compared["right"]]) == []
    assert known.list_differences([compared["wrong"]]) == ["k: is known to be unwritten in part, and is not"]
    assert known.list_differences([replace(compared["unwritten"], result="v")]) != []
    (line,) = known.list_differences([compared["both"]])
    assert line.startswith(
        "k: is known to be unwritten in part, and what is written is wrong: k[3]: expected 1, got nan"
    )


@pytest.mark.parametrize(("stray", "agrees"), [(0.0, True), (0.2, True), (0.6, False), (3.0, False)])
def test_one_number_among_many_is_no_rounding(stray: float, agrees: bool) -> None:
    """A step that writes one number into another slot moves the rms by less than rounding to a half does."""
    case = replace(ROWS["mamba3_siso_combined", "whole"], dtype="bfloat16")
    state = torch.randn(100, 400, generator=torch.Generator().manual_seed(1))
    after = state.clone()
    after[7, 9] = state[7, 9] + stray * (1 + abs(state[7, 9]))
    found = invariants.find_violations(case, [("slots of others", state, after)])
    assert (found == []) == agrees
    assert all(line.startswith(f"{case.id}: slots of others[7, 9]: ") for line in found)


def test_results_of_other_shapes_do_not_agree() -> None:
    """One state beside those of several sequences would be repeated for each."""
    case, one = ROWS["mamba3_siso_combined", "whole"], torch.ones(1, 2)
    (line,) = invariants.find_violations(case, [("states", torch.ones(4, 2), one), ("last", one, one)])
    assert line == f"{case.id}: states: the shapes (4, 2) and (1, 2) should agree"
