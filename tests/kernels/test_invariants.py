"""What must hold of an operation without any reference."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from scanproof.kernels.cases import InvariantCase, load_invariants
from scanproof.plugin.kernel_fixtures import Kernels, Proven, Require
from scanproof.plugin.kernel_parameters import case_parameters, load_table

ALL = load_table(load_invariants)
DETERMINISM = [each for each in ALL if each.invariant == "determinism"]
OTHERS = [each for each in ALL if each.invariant != "determinism"]
ONE_EACH = {each.case.op: each for each in reversed(DETERMINISM)}.values()
"""One case, and one dtype, of each operation."""
INTERPRETED = [each for each in case_parameters(ONE_EACH) if "interpreter" in each.values]


@pytest.mark.parametrize(("row", "scanproof_place"), case_parameters(OTHERS))
def test_invariant(
    row: InvariantCase, scanproof_kernels: Kernels, scanproof_require: Require, scanproof_proven: Proven
) -> None:
    from scanproof.kernels import compare, invariants, operation_table

    case = row.case

    # Forward passes only, whatever the case is otherwise used for; also of the other operations that are called.
    needed: list[str] = []

    def calls(name: str) -> Callable[..., Any]:
        op = operation_table.find_operation(name)
        scanproof_require(op, case)
        call = compare.return_tuples(scanproof_kernels.call(op))

        def call_and_need(**arguments: Any) -> Any:
            kernels = op.needed_kernels(replace(case, backward=False))
            needed.extend(kernel for kernel in kernels if kernel not in needed)
            return call(**arguments)

        return call_and_need

    op = operation_table.find_operation(case.op)
    scanproof_require(op, case)
    with scanproof_proven(case.id, needed):
        pairs = invariants.PAIRS[row.invariant, case.op](calls, compare.draw_inputs(op, case, scanproof_kernels.device))
    wrong = invariants.find_violations(case, pairs, tf32=compare.uses_tf32(op, case, scanproof_kernels.device))
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


@pytest.mark.parametrize(("row", "scanproof_place"), case_parameters(DETERMINISM))
def test_two_identical_calls_agree_bit_for_bit(
    row: InvariantCase, scanproof_kernels: Kernels, scanproof_require: Require, scanproof_proven: Proven
) -> None:
    """But for sums whose order a GPU does not fix, which the operation's row lists: those agree to rounding."""
    from scanproof.kernels import operation_table, repeats

    op, case = operation_table.find_operation(row.case.op), row.case
    scanproof_require(op, case)
    with scanproof_proven(case.id, op.needed_kernels(case)):
        wrong = repeats.find_unrepeated(op, case, scanproof_kernels.call(op), scanproof_kernels.device)
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(("row", "scanproof_place"), INTERPRETED)
def test_a_nan_reaches_what_depends_on_it_and_no_other_row(
    row: InvariantCase, scanproof_kernels: Kernels, scanproof_require: Require, scanproof_proven: Proven
) -> None:
    """In the interpreter: what a GPU's kernels do with NaN has not been measured."""
    from scanproof.kernels import nan_spread, operation_table

    op, case = operation_table.find_operation(row.case.op), row.case
    scanproof_require(op, case)
    with scanproof_proven(case.id, op.needed_kernels(replace(case, backward=False))):
        wrong = nan_spread.find_wrong_nan(op, case, scanproof_kernels.call(op))
    assert not wrong, "\n".join(wrong)
