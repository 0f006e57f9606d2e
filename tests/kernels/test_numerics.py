"""Every operation, dtype and case against float64: forward, and backward where the case says so."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

from scanproof.kernels.cases import KernelCase, load, not_interpreted
from tests.support.kernel_places import Kernels, Proven, fail_as_wrong, known_error, parameters, table

if TYPE_CHECKING:
    from scanproof.kernels.operation import Op


@pytest.mark.parametrize(("case", "place"), parameters(table(load)))
def test_error_is_at_most_twice_that_of_the_pytorch_form(
    case: KernelCase,
    kernels: Kernels,
    require: Callable[[Op, KernelCase], None],
    proven: Proven,
    record_property: Callable[[str, object], None],
    request: pytest.FixtureRequest,
) -> None:
    from scanproof.kernels import compare, operation_table

    op = operation_table.find_operation(case.op)
    require(op, case)
    with known_error(case.raises), proven(case.id, op.needed_kernels(case)):
        comparisons = compare.compare_case(op, case, kernels.call(op), kernels.device)
    for each in comparisons:
        record_property(f"rms error: {each.result}", each.error.rms)
        record_property(f"rms error of the PyTorch form: {each.result}", each.form.rms)
    message = compare.describe_failures(case, comparisons)
    if message and case.raises is None:
        fail_as_wrong(request.node, message)
    if message:
        pytest.fail(message, pytrace=False)


@pytest.mark.interpreted
@pytest.mark.parametrize("name", table(not_interpreted))
def test_what_the_interpreter_cannot_run_is_said(name: str) -> None:
    from scanproof.kernels import operation_table

    pytest.skip(f"{name}: {operation_table.find_operation(name).interpreter}")
