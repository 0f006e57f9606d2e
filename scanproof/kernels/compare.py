"""Runs one case through an operation, its float64 reference and its same-precision PyTorch form, and compares them."""

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
"""Name of an output, or `grad of NAME` for the gradient of an argument -> its values."""

POISONED = ("empty", "empty_like", "empty_strided")
"""Functions of torch that allocate memory without writing to it."""


class WrongResult(AssertionError):
    """A result is missing, or has the wrong shape or dtype, so that its values cannot be compared."""


def draw_inputs(op: Op, case: KernelCase, device: str = "cpu") -> dict[str, Any]:
    """Draw the arguments of a case and add its options, by name.

    Raises:
        CaseError: the row names an argument, a result, a way to draw or an axis that does not exist.
    """
    return {**draw_arguments(case, op.arguments, op.sizes(case), device, op.outputs), **case.options}


@contextlib.contextmanager
def poison_new_memory(device: str) -> Iterator[None]:
    """Fill newly allocated memory with NaN, so that elements that an operation never writes are seen.

    Allocations from Python are filled directly.  A CUDA extension takes its memory from PyTorch's pool of freed
    blocks: blocks that hold NaN are allocated and freed into that pool first.
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
    """Bytes that one process may fill with NaN: a quarter of `free`, shared by all pytest-xdist workers.

    A process keeps its pool of freed blocks until it ends.
    """
    return free // 4 // int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))


def allocate_nan_blocks(device: str, room: int) -> list[Tensor]:
    """Allocate blocks of NaN of every power of two from 4 KiB to 16 GiB.

    The blocks of more than 1 MiB take at most `room` bytes together, the small ones 32 MiB.  PyTorch serves
    allocations of up to 1 MiB from a pool of their own, which has many free blocks: 16 of each size are made.
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
    """Run the operation under test, with new memory filled with NaN.

    Matrix products that it leaves to PyTorch are summed in float32.  Tensors that it changes in place are copied
    before, and come after the results that it returns.

    Raises:
        WrongResult: the number, a shape or a dtype of the results is not what the operation's row says, or no
            gradient reaches an argument.
    """
    given = {key: value.clone() if key in op.changes else value for key, value in arguments.items()}
    leaves = _leaves(op, case, given)
    with poison_new_memory(device), sum_products_in_float32():
        returned = call(**{**given, **leaves})
        outputs = (*_tuple(returned), *(given[name] for name in op.changes))
        _check(op, case, outputs)
        results = dict(zip((output.name for output in op.expected_outputs(case)), outputs, strict=True))
        return {**_detached(results), **_gradients(op, case, results, leaves)}


def run_reference(op: Op, case: KernelCase, arguments: Mapping[str, Any]) -> Results:
    """Run the reference in float64."""
    return _run_in(op, case, arguments, torch.float64, exact)


def uses_tf32(op: Op, case: KernelCase, device: str) -> bool:
    """Whether the operation's matrix products cut float32 operands to TF32 (10 bits of mantissa) on this device."""
    return case.dtype == "float32" and op.tf32 and device != "cpu"


def run_form(
    op: Op, case: KernelCase, arguments: Mapping[str, Any], device: str = "cpu", dither: float = 1.0
) -> Results:
    """Run the same-precision PyTorch form; its results have the dtypes of the operation's results.

    Args:
        dither: scale at which intermediate values are rounded, see `precision.DITHERS`.
    """
    hold = tf32 if uses_tf32(op, case, device) else rounded_to(case_dtype(case))
    results = _run_in(op, case, arguments, torch.float32, dithered(hold, dither))
    dtypes = {part.name: dtype_of(part, case) for part in op.expected_outputs(case)}
    dtypes |= {f"grad of {part.name}": dtype_of(part, case) for part in op.arguments}
    return {name: value.to(dtypes[name]) for name, value in results.items()}


def convert_to_float64(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Convert the tensors among the arguments to float64, for a reference; other arguments stay as they are."""
    return _converted(arguments, torch.float64)


def _converted(arguments: Mapping[str, Any], dtype: torch.dtype) -> dict[str, Any]:
    return {
        key: convert(value.detach(), dtype) if isinstance(value, Tensor) else value for key, value in arguments.items()
    }


def convert(value: Tensor, dtype: torch.dtype) -> Tensor:
    """Convert to a real dtype; complex values to the complex dtype of that precision, integers not at all."""
    if value.is_complex():
        return value.to(dtype.to_complex())
    return value.to(dtype) if value.is_floating_point() else value


def _run_in(op: Op, case: KernelCase, arguments: Mapping[str, Any], dtype: torch.dtype, hold: Hold) -> Results:
    given = _converted(arguments, dtype)
    leaves = _leaves(op, case, given)
    with contextlib.nullcontext() if case.backward else torch.no_grad():
        outputs = op.reference(**{**given, **leaves}, hold=hold)
    results = dict(zip((output.name for output in op.expected_outputs(case)), outputs, strict=True))
    return {**_detached(results), **_gradients(op, case, results, leaves)}


def _leaves(op: Op, case: KernelCase, given: Mapping[str, Any]) -> dict[str, Tensor]:
    """The arguments whose gradients are compared, as leaves of the autograd graph, in their own memory layout."""
    if not case.backward:
        return {}
    names = [argument.name for argument in op.arguments if argument.differentiable and argument.name in given]
    return {name: given[name].detach().requires_grad_() for name in names if given[name] is not None}


def _gradients(op: Op, case: KernelCase, results: Results, leaves: Mapping[str, Tensor]) -> Results:
    """Gradients of sum(output * cotangent); every implementation gets the same cotangents.

    Raises:
        WrongResult: no gradient reaches an argument.
    """
    if not case.backward:
        return {}
    outputs = [output for output in op.expected_outputs(case) if output.differentiable]
    cotangents = [_cotangent(output, case, results[output.name]) for output in outputs]
    wanted = [results[output.name] for output in outputs]
    gradients = torch.autograd.grad(wanted, list(leaves.values()), cotangents, allow_unused=True)
    unused = [name for name, gradient in zip(leaves, gradients, strict=True) if gradient is None]
    if unused:
        raise WrongResult(f"{case.id}: no gradient reaches {', '.join(unused)}: the results do not depend on it")
    return {f"grad of {name}": gradient for name, gradient in zip(leaves, gradients, strict=True)}


def _cotangent(output: OutputSpec, case: KernelCase, value: Tensor) -> Tensor:
    generator = torch.Generator(value.device).manual_seed(zlib.crc32(output.name.encode()) + case.seed)
    drawn = torch.randn(value.shape, generator=generator, device=value.device)
    drawn = drawn.to(dtype_of(output, case)).to(value.dtype)
    # A real gradient may not be contiguous: for example that of one part of a fused projection.
    return lay_out(drawn, axes_of(output, case), case.layouts.get(output.name))


def _tuple(returned: Any) -> tuple[Any, ...]:
    return tuple(returned) if isinstance(returned, (tuple, list)) else (returned,)


def return_tuples(call: Call) -> Call:
    """Make a call always return a tuple, also for a single result, as the references do."""
    return lambda **arguments: _tuple(call(**arguments))


def _detached(results: Results) -> Results:
    return {name: value.detach() for name, value in results.items()}


def _check(op: Op, case: KernelCase, outputs: tuple[Any, ...]) -> None:
    expected = op.expected_outputs(case)
    if len(outputs) != len(expected):
        raise WrongResult(
            f"{case.id}: {len(outputs)} results, expected {', '.join(output.name for output in expected)}"
        )
    for output, value in zip(expected, outputs, strict=True):
        wanted = (shape_of(axes_of(output, case), op.sizes(case)), dtype_of(output, case))
        if (tuple(value.shape), value.dtype) != wanted:
            raise WrongResult(
                f"{case.id}: {output.name} is {tuple(value.shape)} {value.dtype}, expected {wanted[0]} {wanted[1]}"
            )


def compare_case(op: Op, case: KernelCase, call: Call, device: str = "cpu") -> tuple[ResultComparison, ...]:
    """Apply the criterion to every result of a case, and to the gradients if the case asks for them.

    Raises:
        WrongResult: the number, a shape or a dtype of the results is wrong, or no gradient reaches an argument.
        CaseError: the case names something that does not exist.
    """
    arguments = draw_inputs(op, case, device)
    results = _in_reals(run_op(op, case, arguments, call, device))
    if case.rows:
        arguments, results = _two_rows(op, case, arguments), _two_rows(op, case, results)
    reference = _in_reals(run_reference(op, case, arguments))
    has_few_numbers = min(value.numel() for value in reference.values()) < FEW
    dithers = DITHERS if has_few_numbers else DITHERS[:1]
    forms = [_in_reals(run_form(op, case, arguments, device, dither)) for dither in dithers]
    atol = op.atol.get(case.dtype, ATOL[case_dtype(case)])
    return tuple(
        compare_result(name, results[name], [form[name] for form in forms], exact_value, atol)
        for name, exact_value in reference.items()
    )


def _in_reals(results: Results) -> Results:
    """View complex results as pairs of real numbers, on an additional last axis."""
    return {name: torch.view_as_real(value) if value.is_complex() else value for name, value in results.items()}


def find_unrepeated(op: Op, case: KernelCase, call: Call, device: str = "cpu") -> list[str]:
    """Call the operation twice with the same arguments; one line for each result that differs.

    Results that a GPU sums atomically (`Op.atomic`) have no fixed order of summation: they may differ by rounding.

    Raises:
        WrongResult: as `run_op`.
    """
    arguments = draw_inputs(op, case, device)
    first, second = (run_op(op, case, arguments, call, device) for _ in range(2))
    atomic = [(name, first[name], second[name]) for name in first if name in op.atomic]
    differences = invariants.find_violations(case, atomic, tf32=uses_tf32(op, case, device))
    changed = [name for name in first if name not in op.atomic and not torch.equal(first[name], second[name])]
    return differences + [f"{case.id}: two identical calls gave different bits of {name}" for name in changed]


def _two_rows(op: Op, case: KernelCase, values: Mapping[str, Any]) -> dict[str, Any]:
    """Keep the first and last row of every value that has a batch axis."""
    parts: list[ArgumentSpec | OutputSpec] = [*op.arguments, *op.outputs]
    axes = {part.name: axes_of(part, case) for part in parts}
    batched = {name for name, part in axes.items() if part.split()[:1] in (["b"], ["N"])}
    return {name: value[[0, -1]] if name in batched else value for name, value in values.items()}


def describe_failures(case: KernelCase, comparisons: tuple[ResultComparison, ...]) -> str:
    """Say what is wrong, one line for each result that fails; empty when all pass."""
    wrong = [f"  {comparison}" for comparison in comparisons if not comparison.passed]
    return "\n".join([f"{case.id}: {len(wrong)} of {len(comparisons)} results are wrong", *wrong]) if wrong else ""
