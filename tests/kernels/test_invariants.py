"""What must hold of an operation without any reference."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from scanproof.kernels.cases import InvariantCase, KernelCase, load_invariants
from tests.support.kernel_places import Kernels, Proven, parameters, table

if TYPE_CHECKING:
    from scanproof.kernels.operation import Op

ALL = table(load_invariants)
DETERMINISM = [each for each in ALL if each.invariant == "determinism"]
OTHERS = [each for each in ALL if each.invariant != "determinism"]
Require = Callable[["Op", KernelCase], None]


@pytest.mark.parametrize(("row", "place"), parameters(OTHERS))
def test_invariant(row: InvariantCase, kernels: Kernels, require: Require, proven: Proven) -> None:
    from scanproof.kernels import compare, invariants, operation_table

    case = row.case

    def calls(name: str) -> Callable[..., Any]:
        op = operation_table.find_operation(name)
        require(op, case)
        return compare.return_tuples(kernels.call(op))

    op = operation_table.find_operation(case.op)
    require(op, case)
    # Forward passes only, whatever the case is otherwise used for.
    with proven(case.id, op.needed_kernels(replace(case, backward=False))):
        pairs = invariants.PAIRS[row.invariant, case.op](calls, compare.draw_inputs(op, case, kernels.device))
    wrong = invariants.find_violations(case, pairs, tf32=compare.uses_tf32(op, case, kernels.device))
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("row", [each for each in OTHERS if each.case.dtype == "bfloat16"], ids=lambda row: row.id)
def test_the_references_keep_the_invariants_in_float64(row: InvariantCase) -> None:
    from scanproof.kernels import compare, invariants, operation_table

    case = replace(row.case, dtype="float64")
    inputs = compare.convert_to_float64(compare.draw_inputs(operation_table.find_operation(case.op), case))
    pairs = invariants.PAIRS[row.invariant, case.op](
        lambda name: operation_table.find_operation(name).reference, inputs
    )
    assert invariants.find_violations(case, pairs) == []


@pytest.mark.parametrize(("row", "place"), parameters(DETERMINISM))
def test_two_identical_calls_agree_bit_for_bit(
    row: InvariantCase, kernels: Kernels, require: Require, proven: Proven
) -> None:
    """But for sums whose order a GPU does not fix, which the operation's row lists: those agree to rounding."""
    from scanproof.kernels import compare, operation_table

    op, case = operation_table.find_operation(row.case.op), row.case
    require(op, case)
    with proven(case.id, op.needed_kernels(case)):
        wrong = compare.find_unrepeated(op, case, kernels.call(op), kernels.device)
    assert not wrong, "\n".join(wrong)
