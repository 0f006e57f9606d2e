"""What must hold of an operation without any reference."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from kernel_places import Kernels, parameters
from scanproof.kernels.cases import InvariantCase, KernelCase, load_invariants

if TYPE_CHECKING:
    from scanproof.kernels.op import Op

ALL = load_invariants()
DETERMINISM = [each for each in ALL if each.invariant == "determinism"]
OTHERS = [each for each in ALL if each.invariant != "determinism"]
Require = Callable[["Op", KernelCase], None]


@pytest.mark.parametrize(("row", "place"), parameters(OTHERS))
def test_invariant(row: InvariantCase, kernels: Kernels, require: Require) -> None:
    from scanproof.kernels import invariants, ops, run

    case = row.case

    def calls(name: str) -> Callable[..., Any]:
        op = ops.named(name)
        require(op, case)
        return run.returning_tuples(kernels.call(op))

    op = ops.named(case.op)
    require(op, case)
    pairs = invariants.PAIRS[row.invariant, case.op](calls, run.inputs(op, case, kernels.device))
    wrong = invariants.violations(case, pairs, tf32=run.uses_tf32(op, case, kernels.device))
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("row", [each for each in OTHERS if each.case.dtype == "bfloat16"], ids=lambda row: row.id)
def test_the_references_keep_the_invariants_in_float64(row: InvariantCase) -> None:
    from scanproof.kernels import invariants, ops, run

    case = replace(row.case, dtype="float64")
    inputs = run.in_float64(run.inputs(ops.named(case.op), case))
    pairs = invariants.PAIRS[row.invariant, case.op](lambda name: ops.named(name).reference, inputs)
    assert invariants.violations(case, pairs) == []


@pytest.mark.parametrize(("row", "place"), parameters(DETERMINISM))
def test_two_identical_calls_agree_bit_for_bit(row: InvariantCase, kernels: Kernels, require: Require) -> None:
    """But for sums whose order a GPU does not fix, which the operation's row lists: those agree to rounding."""
    import torch

    from scanproof.kernels import invariants, ops, run

    op, case = ops.named(row.case.op), row.case
    require(op, case)
    arguments = run.inputs(op, case, kernels.device)
    first, second = (run.run_op(op, case, arguments, kernels.call(op), kernels.device) for _ in range(2))
    loose = [(name, first[name], second[name]) for name in first if name in op.atomic]
    assert invariants.violations(case, loose, tf32=run.uses_tf32(op, case, kernels.device)) == []
    changed = [name for name in first if name not in op.atomic and not torch.equal(first[name], second[name])]
    assert not changed, f"{case.id}: two identical calls gave different bits of {', '.join(changed)}"
