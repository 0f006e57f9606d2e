"""mamba-ssm's own autograd code of the inner function, with its CUDA extensions in PyTorch.

It needs no GPU: what is tested is the Python between the extensions, which a GPU would run as well.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from scanproof.kernels.cases import KernelCase, load
from scanproof.kernels.known import split_error
from scanproof.plugin.kernel_fixtures import Missing
from tests.support.late import Late

if TYPE_CHECKING:
    import torch

    from scanproof.kernels import compare, operation_table
    from scanproof.kernels.references import convolution, mamba1
else:
    torch, convolution, mamba1 = (
        Late("torch"), Late("scanproof.kernels.references.convolution"), Late("scanproof.kernels.references.mamba1"),
    )  # fmt: skip
    operation_table, compare = Late("scanproof.kernels.operation_table"), Late("scanproof.kernels.compare")

ROWS = [case for case in load() if case.op == "mamba_inner_fn" and case.sizes["l"] < 200]


def in_float32(function: Any, given: list[Any], dout: Any) -> tuple[list[Any], list[Any]]:
    """Results of a function of tensors, and gradients of its first result, in the dtypes of what is given."""
    wide = [each if each is None else each.detach().float().requires_grad_() for each in given]
    with torch.enable_grad():
        out = function(*wide)
        leaves = [each for each in wide if each is not None]
        found = iter(torch.autograd.grad(out, leaves, dout.float()) if dout is not None else [None] * len(leaves))
    gradients = [None if each is None else next(found) for each in wide]
    kept = [each if each is None or g is None else g.to(each.dtype) for each, g in zip(given, gradients, strict=True)]
    return [out.detach()], kept


def scan(softplus: bool) -> Any:
    def call(u: Any, delta: Any, A: Any, B: Any, C: Any, D: Any, z: Any, bias: Any) -> Any:
        (y,) = mamba1.selective_scan_fn(u, delta, A, B, C, D, z, bias, softplus)
        return y

    return call


def scan_fwd(
    u: Any, delta: Any, A: Any, B: Any, C: Any, D: Any, z: Any, bias: Any, softplus: bool
) -> tuple[Any, Any, Any]:
    """Output before the gate, what the backward pass keeps, output after it."""
    (out,), _ = in_float32(scan(softplus), [u, delta, A, B, C, D, None, bias], None)
    (gated,), _ = in_float32(scan(softplus), [u, delta, A, B, C, D, z, bias], None)
    return out.to(u.dtype), torch.empty(0), gated.to(u.dtype)


def scan_bwd(
    u: Any, delta: Any, A: Any, B: Any, C: Any, D: Any, z: Any, bias: Any, dout: Any, x: Any, out: Any, dz: Any,
    softplus: bool, recompute: bool,
) -> tuple[Any, ...]:  # fmt: skip
    """Gradients in the extension's order; that of the gate into the tensor it was given."""
    assert recompute
    (gated,), found = in_float32(scan(softplus), [u, delta, A, B, C, D, z, bias], dout)
    dz.copy_(found[6])
    return (*found[:6], found[7], dz, gated.to(u.dtype))


def convolve(x: Any, weight: Any, bias: Any) -> Any:
    return convolution.causal_conv1d_fn(x, weight, bias, activation="silu")[0]


def convolution_fwd(x: Any, weight: Any, bias: Any, *rest: Any) -> Any:
    assert rest == (None, None, None, True)
    (out,), _ = in_float32(convolve, [x, weight, bias], None)
    return out.to(x.dtype)


def convolution_bwd(x: Any, weight: Any, bias: Any, dout: Any, *rest: Any) -> tuple[Any, ...]:
    *_, dx, _, _ = rest
    _, found = in_float32(convolve, [x, weight, bias], dout)
    dx.copy_(found[0])
    return (dx, *found[1:], None)


@pytest.fixture
def inner(scanproof_interpreter: str | None, scanproof_missing: Missing, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The installed operation, its extensions replaced."""
    if scanproof_interpreter is not None:
        scanproof_missing(scanproof_interpreter)
    from mamba_ssm.ops import selective_scan_interface as interface

    monkeypatch.setattr(interface, "selective_scan_cuda", SimpleNamespace(fwd=scan_fwd, bwd=scan_bwd))
    monkeypatch.setattr(interface, "causal_conv1d_fwd_function", convolution_fwd)
    monkeypatch.setattr(interface, "causal_conv1d_bwd_function", convolution_bwd)
    return interface.mamba_inner_fn


@pytest.mark.interpreted
@pytest.mark.parametrize("case", ROWS, ids=lambda case: case.id)
def test_the_inner_function_is_right_but_for_what_is_known(case: KernelCase, inner: Any) -> None:
    op = operation_table.find_operation(case.op)
    if case.raises is None:
        comparisons = compare.compare_case(op, case, inner)
        wrong = {comparison.result for comparison in comparisons if not comparison.passed}
        assert wrong == (case.known.results if case.known else set()), compare.describe_failures(case, comparisons)
        assert case.known is None or case.known.list_differences(comparisons) == []
        return
    kind, words = split_error(case.raises)
    with pytest.raises(kind) as raised:
        compare.compare_case(op, case, inner)
    assert words in str(raised.value)
