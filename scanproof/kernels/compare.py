"""Runs one case through an operation, its float64 reference and its same-precision PyTorch form, and compares them."""

from __future__ import annotations

import contextlib
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from scanproof.kernels.batch_rows import choose_rows, take_rows
from scanproof.kernels.cases import KernelCase
from scanproof.kernels.copies import copy_tensors, find_overwritten
from scanproof.kernels.costs import memory_needed
from scanproof.kernels.criterion import ATOL, FEW, ResultComparison, compare_result, judge_elements
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
from scanproof.kernels.poisoned_memory import poison_new_memory
from scanproof.kernels.references.precision import (
    DITHERS,
    ApproximateFunctions,
    FastExponentials,
    Hold,
    dithered,
    exact,
    rounded_to,
    tf32,
)
from scanproof.kernels.settings import Pinned, pin_settings

Call = Callable[..., Any]
Results = dict[str, Tensor]
"""Name of an output, or `grad of NAME` for the gradient of an argument -> its values."""

SENT_BACK = 5
"""Gradients that are sent back to measure how large a gradient of few numbers usually is."""


class WrongResult(AssertionError):
    """A result is missing, or has the wrong shape or dtype, so that its values cannot be compared."""


class Overwritten(WrongResult):
    """The operation wrote to an argument that it has only to read."""


def draw_inputs(op: Op, case: KernelCase, device: str = "cpu") -> dict[str, Any]:
    """Draw the arguments of a case and add its options, by name.

    Raises:
        CaseError: the row names an argument, a result, a way to draw or an axis that does not exist.
    """
    return {**draw_arguments(case, op.arguments, op.sizes(case), device, op.outputs), **case.options}


@dataclass(frozen=True)
class Called:
    """What one call of the operation got and gave."""

    given: dict[str, Any]
    """The arguments that it got: copies, in which it changes states in place."""
    leaves: dict[str, Tensor]
    """Those of them whose gradients are compared: in the memory of `given`, which the call got in their place."""
    outputs: Results
    """With the graph of its backward pass, if that was kept."""
    results: Results

    def gradients(self, op: Op, case: KernelCase) -> Results:
        """Run the backward pass again, whose graph was kept."""
        return _gradients(op, case, self.outputs, self.leaves)


def run_op(op: Op, case: KernelCase, arguments: Mapping[str, Any], call: Call, device: str = "cpu") -> Results:
    """The results of `call_op`, which says more."""
    return call_op(op, case, arguments, call, device).results


def call_op(
    op: Op,
    case: KernelCase,
    arguments: Mapping[str, Any],
    call: Call,
    device: str = "cpu",
    into: Called | None = None,
    keep_graph: bool = False,
) -> Called:
    """Run the operation under test, with new memory filled with NaN, under the settings of `settings.SETTINGS`.

    So matrix products that it leaves to PyTorch are in full precision.  It gets copies of all tensors, in the same
    layout, so that nothing that it writes reaches the references.  Those that it changes in place come after the
    results that it returns; all others have to be as they were, bit for bit, after the call and its backward pass.

    Args:
        into: an earlier call, whose tensors hold `arguments` by now and are given once more; None: copies are made.
        keep_graph: whether the backward pass will be run again.

    Raises:
        WrongResult: the number, a shape or a dtype of the results is not what the operation's row says, no gradient
            reaches an argument, an argument was overwritten, or a setting was changed and not put back.
    """
    given = copy_tensors(arguments) if into is None else into.given
    leaves = _leaves(op, case, given) if into is None else into.leaves
    with poison_new_memory(device, memory_needed(op, case)), pin_settings() as pinned:
        returned = call(**{**given, **leaves})
        _fail_on_changed_settings(case, pinned, "the call")
        outputs = (*_tuple(returned), *(given[name] for name in op.changes))
        _check(op, case, outputs)
        named = dict(zip((output.name for output in op.expected_outputs(case)), outputs, strict=True))
        results = {**_detached(named), **_gradients(op, case, named, leaves, keep_graph)}
        _fail_on_changed_settings(case, pinned, "its backward pass")
    if overwritten := find_overwritten(arguments, given, op.changes):
        raise Overwritten(f"{case.id}: overwrote its arguments {', '.join(overwritten)}, which it has only to read")
    return Called(given, leaves, named if keep_graph else {}, results)


def _fail_on_changed_settings(case: KernelCase, pinned: Pinned, after: str) -> None:
    if changed := pinned.list_changed():
        raise WrongResult(f"{case.id}: after {after}, {'; '.join(changed)}: it has to put back what it changes")


@pin_settings()
def run_reference(op: Op, case: KernelCase, arguments: Mapping[str, Any]) -> Results:
    """Run the reference in float64."""
    return compute_reference(op, case, arguments)


def compute_reference(op: Op, case: KernelCase, arguments: Mapping[str, Any]) -> Results:
    """`run_reference` under the settings that hold: to pin them takes milliseconds each time."""
    return _run_in(op, case, arguments, torch.float64, exact)


def uses_tf32(op: Op, case: KernelCase, device: str) -> bool:
    """Whether the operation's matrix products cut float32 operands to TF32 (10 bits of mantissa) on this device."""
    return case.dtype == "float32" and op.tf32 and device != "cpu"


@pin_settings()
def run_form(
    op: Op, case: KernelCase, arguments: Mapping[str, Any], device: str = "cpu", dither: float = 1.0
) -> Results:
    """Run the same-precision PyTorch form; its results have the dtypes of the operation's results.

    Args:
        dither: scale at which intermediate values are rounded, see `precision.DITHERS`.
    """
    return compute_form(op, case, arguments, device, dither)


def compute_form(op: Op, case: KernelCase, arguments: Mapping[str, Any], device: str, dither: float) -> Results:
    """`run_form` under the settings that hold."""
    hold = tf32 if uses_tf32(op, case, device) else rounded_to(case_dtype(case))
    narrowed = {name: arguments[name].to(case_dtype(case)) for name in op.casts if name in arguments}
    with contextlib.ExitStack() as stack:
        if op.fast_math and device != "cpu":
            stack.enter_context(FastExponentials())
        if op.approximate and device != "cpu":
            stack.enter_context(ApproximateFunctions())
        results = _run_in(op, case, {**arguments, **narrowed}, torch.float32, dithered(hold, dither))
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


def _gradients(
    op: Op, case: KernelCase, results: Results, leaves: Mapping[str, Tensor], keep_graph: bool = False
) -> Results:
    """Gradients of sum(output * cotangent); every implementation gets the same cotangents.

    Raises:
        WrongResult: no gradient reaches an argument.
    """
    if not case.backward:
        return {}
    outputs = [output for output in op.expected_outputs(case) if output.differentiable]
    cotangents = [_cotangent(output, case, results[output.name]) for output in outputs]
    wanted = [results[output.name] for output in outputs]
    gradients = torch.autograd.grad(wanted, list(leaves.values()), cotangents, keep_graph, allow_unused=True)
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
    """What was returned, without the None that stands where a result was not asked for."""
    results = returned if isinstance(returned, (tuple, list)) else (returned,)
    return tuple(result for result in results if result is not None)


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


@pin_settings()
def compare_case(op: Op, case: KernelCase, call: Call, device: str = "cpu") -> tuple[ResultComparison, ...]:
    """Apply the criterion to every result of a case, and to the gradients if the case asks for them.

    Raises:
        WrongResult: as `run_op`.
        CaseError: the case names something that does not exist.
    """
    arguments = draw_inputs(op, case, device)
    return judge_results(op, case, arguments, run_op(op, case, arguments, call, device), device)


def judge_results(
    op: Op, case: KernelCase, arguments: Mapping[str, Any], of_call: Results, device: str = "cpu"
) -> tuple[ResultComparison, ...]:
    """Apply the criterion to the results of a call with these arguments.

    Raises:
        WrongResult: a setting was changed meanwhile, as by what is freed only then: the bounds are not those of the
            case.
    """
    # Once for all references and forms: it takes milliseconds each time.
    with pin_settings() as pinned:
        comparisons = _judge(op, case, arguments, of_call, device)
        _fail_on_changed_settings(case, pinned, "the call was over")
    return comparisons


def _judge(
    op: Op, case: KernelCase, arguments: Mapping[str, Any], of_call: Results, device: str
) -> tuple[ResultComparison, ...]:
    results = _in_reals(op, of_call)
    if case.rows:
        rows = choose_rows(op, case, results)
        arguments, results = take_rows(op, case, arguments, rows), take_rows(op, case, results, rows)
    reference = _in_reals(op, compute_reference(op, case, arguments))
    has_few_numbers = min(value.numel() for value in reference.values()) < FEW
    is_rounded = rounded_to(case_dtype(case)) is not exact
    # What is cut off has one sign, and where few terms of a sum count, one cut may be small by chance.
    dithers = DITHERS if uses_tf32(op, case, device) or (has_few_numbers and is_rounded) else DITHERS[:1]
    forms = [_in_reals(op, compute_form(op, case, arguments, device, dither)) for dither in dithers]
    typical = _typical_gradients(op, case, arguments, reference)
    comparisons = tuple(
        compare_result(
            name,
            results[name],
            [form[name] for form in forms],
            exact_value,
            _atol(op, case, name),
            typical.get(name, 0.0),
        )
        for name, exact_value in reference.items()
    )
    if not any(each.near for each in comparisons) or (not is_rounded and len(forms) == 1):
        return comparisons
    if len(forms) == 1:
        # Only before a result is called wrong, because it takes time.
        forms = [_in_reals(op, compute_form(op, case, arguments, device, dither)) for dither in DITHERS]
    return tuple(
        judge_elements(each, results[each.result], [form[each.result] for form in forms], reference[each.result])
        if each.near
        else each
        for each in comparisons
    )


def _atol(op: Op, case: KernelCase, result: str) -> float:
    """The small constant for a result.

    A state or residual in float32 beside halves is held to float32's: nothing in it has to be rounded to a half.
    """
    parts: list[ArgumentSpec | OutputSpec] = [*op.arguments, *op.expected_outputs(case)]
    of_result = [part for part in parts if part.name == result.removeprefix("grad of ") and part.dtype == "input"]
    dtypes = {dtype_of(part, case) for part in of_result}
    unrounded = any(output.name == result and output.unrounded for output in op.outputs)
    dtype = torch.float32 if torch.float32 in dtypes or unrounded else case_dtype(case)
    own = op.find_atol(case, str(dtype).removeprefix("torch."))
    return ATOL[dtype] if own is None else own


def _typical_gradients(op: Op, case: KernelCase, arguments: Mapping[str, Any], reference: Results) -> dict[str, float]:
    """The rms of gradients of few numbers over several that are sent back, where `Op.atol` is for such a case."""
    small = [name for name, value in reference.items() if name.startswith("grad of") and value.numel() < FEW]
    if op.find_atol(case, case.dtype) is None or not small:
        return {}
    # The seed of a case draws what is sent back; the arguments are given.
    drawn = [compute_reference(op, replace(case, seed=case.seed + number), arguments) for number in range(1, SENT_BACK)]
    values = {name: torch.stack([reference[name], *(_in_reals(op, other)[name] for other in drawn)]) for name in small}
    return {name: float(value.square().mean().sqrt()) for name, value in values.items()}


def _in_reals(op: Op, results: Results) -> Results:
    """View complex results, and angles as their cosine and sine, as pairs of real numbers on an additional last axis.

    The rest of the criterion is of real numbers, of which two that are near are alike.
    """
    angles = {output.name for output in op.outputs if output.angle}
    pairs = {
        name: torch.polar(torch.ones_like(value.double()), value.double()) if name in angles else value
        for name, value in results.items()
    }
    return {name: torch.view_as_real(value) if value.is_complex() else value for name, value in pairs.items()}


def describe_failures(case: KernelCase, comparisons: tuple[ResultComparison, ...]) -> str:
    """Say what is wrong, one line for each result that fails; empty when all pass."""
    wrong = [f"  {comparison}" for comparison in comparisons if not comparison.passed]
    return "\n".join([f"{case.id}: {len(wrong)} of {len(comparisons)} results are wrong", *wrong]) if wrong else ""
