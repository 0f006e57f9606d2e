"""No bound of a known defect, of a kernel case or a module, lets a grossly wrong result pass as known."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import pytest

from scanproof.kernels import cases
from scanproof.kernels.known import KnownDefect
from scanproof.models.against_float64.module_cases import MODULES
from tests.support.late import Late

if TYPE_CHECKING:
    import torch

    from scanproof.kernels import criterion, inputs, operation_table
else:
    torch, criterion = Late("torch"), Late("scanproof.kernels.criterion")
    inputs, operation_table = Late("scanproof.kernels.inputs"), Late("scanproof.kernels.operation_table")

BOUNDED = [case for case in cases.load() if case.known and not case.known.wraps]
ROWS = [pytest.param(case.known, case.raises, case.dtype, id=case.id) for case in BOUNDED]
ROWS += [
    pytest.param(known, None, "bfloat16", id=f"{module.name}-{way}")
    for module in MODULES
    for way, known in module.known.items()
]


@pytest.mark.parametrize(("known", "raises", "dtype"), ROWS)
def test_a_result_five_times_too_large_is_not_what_is_known(known: KnownDefect, raises: str | None, dtype: str) -> None:
    exact = torch.randn(100, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    form = exact.to(getattr(torch, dtype))
    for name in (*known.results, "another result"):
        unbounded = [] if name in known.unwritten else [float("nan") * form]
        for got in (5 * form, -4 * form, float("inf") * form, *unbounded):
            wrong = criterion.compare_result(name, got, [form], exact, criterion.ATOL[form.dtype])
            assert known.list_differences([wrong])
        right = criterion.compare_result(name, form, [form], exact, criterion.ATOL[form.dtype])
        assert known.list_differences([right]) == []
    assert bool(known.results) is (raises is None)


@pytest.mark.parametrize(("known", "raises", "dtype"), ROWS)
def test_what_is_known_ends_at_its_bound(known: KnownDefect, raises: str | None, dtype: str) -> None:
    exact = torch.randn(1000, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    form = exact.to(getattr(torch, dtype))
    atol = criterion.ATOL[form.dtype]
    for name in (*known.rms, *known.times):
        if name in known.rms:
            share = known.rms[name]
        else:
            share = known.times[name] * criterion.compare_result(name, form, [form], exact, atol).allowed_rms
        step = share * exact.square().mean().sqrt()
        sign = torch.ones_like(exact)
        sign[::2] = -1
        within, beyond = (
            criterion.compare_result(name, exact + part * step * sign, [form], exact, atol) for part in (0.9, 1.1)
        )
        assert known.list_differences([within]) == [], within
        assert known.list_differences([beyond]), beyond


@pytest.mark.parametrize(
    "case", [case for case in cases.load() if case.known and case.known.wraps], ids=lambda case: case.id
)
def test_offsets_wrap_only_in_rows_of_more_than_2_to_31_elements(case: cases.KernelCase) -> None:
    """Where nothing is bounded, the row has to be one that only such offsets make wrong."""
    op = operation_table.find_operation(case.op)
    sizes = op.sizes(case)
    axes = [inputs.axes_of(part, case) for parts in (op.arguments, op.outputs) for part in parts]
    largest = max(int(math.prod(map(float, inputs.shape_of(each, sizes)))) for each in axes)
    assert largest > 2**31
    assert case.alone
    assert case.where == ("gpu",)


def test_twice_the_allowed_error_is_two_times_what_is_allowed() -> None:
    exact = torch.ones(100, dtype=torch.float64)
    found = criterion.compare_result("out", exact + 4e-3, [exact], exact, 2e-3)
    assert found.times_allowed == pytest.approx(2)
    one_wrong = exact.clone()
    one_wrong[7] += 6e-3
    assert criterion.compare_result("out", one_wrong, [exact], exact, 2e-3).times_allowed == pytest.approx(3)
