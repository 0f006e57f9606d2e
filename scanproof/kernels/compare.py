"""One case through an operation, its float64 reference and its same-precision PyTorch form."""

from __future__ import annotations

import contextlib
import functools
import os
import zlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any
from unittest import mock

import torch
from torch import Tensor

from scanproof.kernels import invariants
from scanproof.kernels.cases import KernelCase
from scanproof.kernels.criterion import ATOL, FEW, ResultComparison, compare_result
from scanproof.kernels.inputs import (
    ArgumentSpec,
    OutputSpec,
    axes_of,
    case_dtype,
    draw_arguments,
    dtype_of,
    lay_out,
    shape_of,
)
from scanproof.kernels.operation import Op
from scanproof.kernels.references.precision import (
    DITHERS,
    Hold,
    dithered,
    exact,
    rounded_to,
    sum_products_in_float32,
    tf32,
)

Call = Callable[..., Any]
Results = dict[str, Tensor]
"""Name of an output, or `grad of` an argument -> its values."""

POISONED = ("empty", "empty_like", "empty_strided")


class WrongResult(AssertionError):
    """A result is of the wrong kind altogether: missing, of another shape or of another dtype."""


def draw_inputs(op: Op, case: KernelCase, device: str = "cpu") -> dict[str, Any]:
    """The arguments of a case, options included."""
    return {**draw_arguments(case, op.arguments, op.sizes(case), device, op.outputs), **case.options}


@contextlib.contextmanager
def poison_new_memory(device: str) -> Iterator[None]:
    """New memory is NaN until written, so that what an operation leaves out shows.

    Allocations from Python are filled.  Those inside a CUDA extension come from PyTorch's pool of freed blocks:
    blocks of NaN are freed into it first.
    """
    if device != "cpu":
        del allocate_nan_blocks(device, nan_room(torch.cuda.mem_get_info()[0]))[:]
    with contextlib.ExitStack() as stack:
        for name in POISONED:
            stack.enter_context(mock.patch.object(torch, name, _filling(getattr(torch, name))))
        for name in ("new_empty", "new_empty_strided"):
            stack.enter_context(mock.patch.object(Tensor, name, _filling(getattr(Tensor, name))))
        yield


def nan_room(free: int) -> int:
    """Bytes of NaN that one process may keep: together the processes of pytest-xdist keep a quarter of what is free.

    The pool belongs to the process, which keeps it until its end.
    """
    return free // 4 // int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))


def allocate_nan_blocks(device: str, room: int) -> list[Tensor]:
    """NaN in blocks of every power of two from 4 KiB to 16 GiB; at most `room` bytes, beside 32 MiB of small ones.

    PyTorch takes allocations of up to 1 MiB from a pool of their own, which has many free blocks.
    """
    small = [2**power for power in range(10, 19) for _ in range(16)]
    large = [2**power for power in range(19, 33) if 2 * 4 * 2**power <= room]
    return [torch.full((size,), float("nan"), device=device) for size in small + large]


def _filling(allocate: Call) -> Call:
    @functools.wraps(allocate)
    def allocate_and_fill(*args: Any, **kwargs: Any) -> Any:
        tensor = allocate(*args, **kwargs)
        return tensor.fill_(float("nan")) if tensor.is_floating_point() or tensor.is_complex() else tensor

    return allocate_and_fill


def run_op(op: Op, case: KernelCase, arguments: Mapping[str, Any], call: Call, device: str = "cpu") -> Results:
    """Results of the operation under test, poisoned memory and all; products that it leaves to PyTorch sum in float32.

    Raises:
        WrongResult: it returns another number of results, or one of another shape or dtype than its row says, or
            a gradient does not reach an argument.
    """
    given = {key: value.clone() if key in op.changes else value for key, value in arguments.items()}
    leaves = _leaves(op, case, given)
    with poison_new_memory(device), sum_products_in_float32():
        returned = call(**{**given, **leaves})
        outputs = (*_tuple(returned), *(given[name] for name in op.changes))
        _check(op, case, outputs)
        results = dict(zip((each.name for each in op.expected_outputs(case)), outputs, strict=True))
        return {**_detached(results), **_gradients(op, case, results, leaves)}


def run_reference(op: Op, case: KernelCase, arguments: Mapping[str, Any]) -> Results:
    """Results in float64."""
    return _run_in(op, case, arguments, torch.float64, exact)


def uses_tf32(op: Op, case: KernelCase, device: str) -> bool:
    """Whether float32 operands of the operation's matrix products lose 13 bits on this device."""
    return case.dtype == "float32" and op.tf32 and device != "cpu"


def run_form(
    op: Op, case: KernelCase, arguments: Mapping[str, Any], device: str = "cpu", dither: float = 1.0
) -> Results:
    """Results of the same-precision PyTorch form, in the dtypes in which the operation returns them."""
    hold = tf32 if uses_tf32(op, case, device) else rounded_to(case_dtype(case))
    results = _run_in(op, case, arguments, torch.float32, dithered(hold, dither))
    dtypes = {each.name: dtype_of(each, case) for each in op.expected_outputs(case)}
    dtypes |= {f"grad of {each.name}": dtype_of(each, case) for each in op.arguments}
    return {name: value.to(dtypes[name]) for name, value in results.items()}


def convert_to_float64(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments for a reference."""
    return _converted(arguments, torch.float64)


def _converted(arguments: Mapping[str, Any], dtype: torch.dtype) -> dict[str, Any]:
    return {
        key: convert(value.detach(), dtype) if isinstance(value, Tensor) else value for key, value in arguments.items()
    }


def convert(value: Tensor, dtype: torch.dtype) -> Tensor:
    """In a real dtype, or in the complex one of its precision; whole numbers stay as they are."""
    if value.is_complex():
        return value.to(dtype.to_complex())
    return value.to(dtype) if value.is_floating_point() else value


def _run_in(op: Op, case: KernelCase, arguments: Mapping[str, Any], dtype: torch.dtype, hold: Hold) -> Results:
    given = _converted(arguments, dtype)
    leaves = _leaves(op, case, given)
    with contextlib.nullcontext() if case.backward else torch.no_grad():
        outputs = op.reference(**{**given, **leaves}, hold=hold)
    results = dict(zip((each.name for each in op.expected_outputs(case)), outputs, strict=True))
    return {**_detached(results), **_gradients(op, case, results, leaves)}


def _leaves(op: Op, case: KernelCase, given: Mapping[str, Any]) -> dict[str, Tensor]:
    """The arguments whose gradients are asked for, as leaves of the graph and in the layout they have."""
    if not case.backward:
        return {}
    names = [each.name for each in op.arguments if each.differentiable and each.name in given]
    return {name: given[name].detach().requires_grad_() for name in names if given[name] is not None}


def _gradients(op: Op, case: KernelCase, results: Results, leaves: Mapping[str, Tensor]) -> Results:
    """Gradients of sum(output x cotangent), with the same cotangents for whatever computes them."""
    if not case.backward:
        return {}
    outputs = [each for each in op.expected_outputs(case) if each.differentiable]
    cotangents = [_cotangent(each, case, results[each.name]) for each in outputs]
    wanted = [results[each.name] for each in outputs]
    found = torch.autograd.grad(wanted, list(leaves.values()), cotangents, allow_unused=True)
    unused = [name for name, gradient in zip(leaves, found, strict=True) if gradient is None]
    if unused:
        raise WrongResult(f"{case.id}: no gradient reaches {', '.join(unused)}: the results do not depend on it")
    return {f"grad of {name}": gradient for name, gradient in zip(leaves, found, strict=True)}


def _cotangent(output: OutputSpec, case: KernelCase, value: Tensor) -> Tensor:
    generator = torch.Generator(value.device).manual_seed(zlib.crc32(output.name.encode()) + case.seed)
    drawn = torch.randn(value.shape, generator=generator, device=value.device)
    drawn = drawn.to(dtype_of(output, case)).to(value.dtype)
    # What comes back from a consumer of one part of a fused projection, say, is not contiguous.
    return lay_out(drawn, axes_of(output, case), case.layouts.get(output.name))


def _tuple(returned: Any) -> tuple[Any, ...]:
    return tuple(returned) if isinstance(returned, (tuple, list)) else (returned,)


def return_tuples(call: Call) -> Call:
    """The operation, its only result in a tuple too, as the references return it."""
    return lambda **arguments: _tuple(call(**arguments))


def _detached(results: Results) -> Results:
    return {name: value.detach() for name, value in results.items()}


def _check(op: Op, case: KernelCase, outputs: tuple[Any, ...]) -> None:
    expected = op.expected_outputs(case)
    if len(outputs) != len(expected):
        raise WrongResult(f"{case.id}: {len(outputs)} results, expected {', '.join(each.name for each in expected)}")
    for each, value in zip(expected, outputs, strict=True):
        wanted = (shape_of(axes_of(each, case), op.sizes(case)), dtype_of(each, case))
        if (tuple(value.shape), value.dtype) != wanted:
            raise WrongResult(
                f"{case.id}: {each.name} is {tuple(value.shape)} {value.dtype}, expected {wanted[0]} {wanted[1]}"
            )


def compare_case(op: Op, case: KernelCase, call: Call, device: str = "cpu") -> tuple[ResultComparison, ...]:
    """The criterion on every result of a case, forward and backward where the case says so."""
    arguments = draw_inputs(op, case, device)
    results = _in_reals(run_op(op, case, arguments, call, device))
    if case.rows:
        arguments, results = _two_rows(op, case, arguments), _two_rows(op, case, results)
    reference = _in_reals(run_reference(op, case, arguments))
    few = min(each.numel() for each in reference.values()) < FEW
    dithers = DITHERS if few else DITHERS[:1]
    forms = [_in_reals(run_form(op, case, arguments, device, dither)) for dither in dithers]
    atol = op.atol.get(case.dtype, ATOL[case_dtype(case)])
    return tuple(
        compare_result(name, results[name], [form[name] for form in forms], exact_value, atol)
        for name, exact_value in reference.items()
    )


def _in_reals(results: Results) -> Results:
    """Complex results as pairs of real numbers, on a last axis of their own."""
    return {name: torch.view_as_real(value) if value.is_complex() else value for name, value in results.items()}


def find_unrepeated(op: Op, case: KernelCase, call: Call, device: str = "cpu") -> list[str]:
    """What differs between two identical calls, one line per result; empty when nothing does.

    Results whose order of summation a GPU does not fix, which the operation's row lists, may differ by rounding.
    """
    arguments = draw_inputs(op, case, device)
    first, second = (run_op(op, case, arguments, call, device) for _ in range(2))
    loose = [(name, first[name], second[name]) for name in first if name in op.atomic]
    apart = invariants.find_violations(case, loose, tf32=uses_tf32(op, case, device))
    changed = [name for name in first if name not in op.atomic and not torch.equal(first[name], second[name])]
    return apart + [f"{case.id}: two identical calls gave different bits of {name}" for name in changed]


def _two_rows(op: Op, case: KernelCase, values: Mapping[str, Any]) -> dict[str, Any]:
    """First and last row of whatever has a batch axis."""
    parts: list[ArgumentSpec | OutputSpec] = [*op.arguments, *op.outputs]
    axes = {each.name: axes_of(each, case) for each in parts}
    batched = {name for name, each in axes.items() if each.split()[:1] in (["b"], ["N"])}
    return {name: value[[0, -1]] if name in batched else value for name, value in values.items()}


def describe_failures(case: KernelCase, comparisons: tuple[ResultComparison, ...]) -> str:
    """What is wrong, one line per result that fails; empty when none does."""
    wrong = [f"  {each}" for each in comparisons if not each.passed]
    return "\n".join([f"{case.id}: {len(wrong)} of {len(comparisons)} results are wrong", *wrong]) if wrong else ""
