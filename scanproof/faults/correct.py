"""A correct implementation of any operation, for planting faults on machines without a GPU.

It is called like an installed kernel: arguments have the case's dtypes, states are changed in place, gradients are
computed.  It runs the reference in float64, rounds to float32 after every step, forward and backward, and rounds to
the case's dtype wherever the same-precision form does.  Before each rounding the value is multiplied by a factor, drawn
at random for the call, and divided by it afterwards.  So its errors are as large as those of the form that it is judged
by, but not the same errors, as with any other correct kernel.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from scanproof.kernels.compare import convert
from scanproof.kernels.inputs import ArgumentSpec, OutputSpec
from scanproof.kernels.operation import Op
from scanproof.kernels.references.precision import dithered, exact, rounded_to

Compute = Callable[[Sequence[Tensor]], tuple[Tensor, ...]]
"""Computes an operation's results from its floating and complex arguments."""


def make_correct(op: Op, seed: int) -> Callable[..., Any]:
    """Make a correct implementation of an operation; equal calls give equal bits.

    Args:
        seed: of the random factors in the roundings.
    """

    def call(**arguments: Any) -> Any:
        dtype = _input_dtype(op, arguments)
        hold = dithered(rounded_to(dtype), 1.0 + random.Random(seed).random())
        names = [name for name, value in arguments.items() if _is_floating(value) or _is_complex(value)]

        def compute(tensors: Sequence[Tensor]) -> tuple[Tensor, ...]:
            given = dict(zip(names, tensors, strict=True))
            cast = {name: given[name].to(dtype) for name in op.casts if name in given}
            wide = {name: convert(tensor, torch.float64) for name, tensor in {**given, **cast}.items()}
            results = op.reference(**{**arguments, **wide}, hold=hold if dtype != torch.float32 else exact)
            return tuple(results)

        apply: Any = _Rounded.apply
        results = apply(compute, seed, *(arguments[name] for name in names))
        return _return_results(op, arguments, results, dtype)

    return call


def _is_floating(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point()


def _is_complex(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_complex()


def _input_dtype(op: Op, arguments: dict[str, Any]) -> torch.dtype:
    """The dtype of a case, taken from an argument that has it.

    Arguments that are changed in place do not count: a state may have a wider dtype.  Nor do those that are cast.
    """
    if op.casts:
        (name,) = op.dtypes
        only: torch.dtype = getattr(torch, name)
        return only
    candidates: list[ArgumentSpec] = [
        argument for argument in op.arguments if argument.dtype == "input" and argument.name not in op.changes
    ]
    for argument in candidates:
        if _is_floating(arguments.get(argument.name)):
            dtype: torch.dtype = arguments[argument.name].dtype
            return dtype
    raise TypeError(f"{op.name}: no argument is a floating tensor of the case's dtype")


def _return_results(op: Op, arguments: dict[str, Any], results: tuple[Tensor, ...], dtype: torch.dtype) -> Any:
    """Return results as the installed operation does: states in place, a single result without a tuple."""
    outputs: list[OutputSpec] = [
        output for output in op.outputs if output.option is None or arguments.get(output.option)
    ]
    returned = []
    for output, value in zip(outputs, results, strict=True):
        if output.name in op.changes:
            arguments[output.name].copy_(value)
        else:
            returned.append(convert(value, _output_dtype(output, arguments, dtype)))
    return tuple(returned) if len(returned) > 1 else returned[0]


def _output_dtype(output: OutputSpec, arguments: dict[str, Any], dtype: torch.dtype) -> torch.dtype:
    """The dtype of a result: that of the argument of its name, as of a residual, or what options and table say."""
    if _is_floating(arguments.get(output.name)):
        same: torch.dtype = arguments[output.name].dtype
        return same
    if output.wide is not None and arguments.get(output.wide):
        return torch.float32
    return dtype if output.dtype == "input" else getattr(torch, output.dtype)


class _Rounded(torch.autograd.Function):
    """A computation in float64 in which every step is rounded to float32, in the backward pass as well."""

    @staticmethod
    def forward(ctx: Any, compute: Compute, seed: int, *tensors: Tensor) -> tuple[Tensor, ...]:
        leaves = [tensor.detach().requires_grad_(tensor.requires_grad) for tensor in tensors]
        needed = any(tensor.requires_grad for tensor in leaves)
        with torch.enable_grad() if needed else torch.no_grad(), Rounding(seed):
            results = compute(leaves)
        ctx.results, ctx.leaves, ctx.seed = results, leaves, seed
        return tuple(tensor.detach() for tensor in results)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Any, ...]:
        inputs = [tensor for tensor in ctx.leaves if tensor.requires_grad]
        outputs = [
            (tensor, given) for tensor, given in zip(ctx.results, gradients, strict=True) if tensor.requires_grad
        ]
        with Rounding(ctx.seed):
            gradients_of_inputs = torch.autograd.grad(
                [tensor for tensor, _ in outputs], inputs, [given for _, given in outputs], allow_unused=True
            )
        remaining = iter(gradients_of_inputs)
        return (None, None, *(next(remaining) if tensor.requires_grad else None for tensor in ctx.leaves))


class Rounding(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Rounds the float64 results of every torch operation to float32, at a scale that is drawn at random.

    What float32 holds stays as it is, and rounding twice is rounding once: arguments, copies and sums with zero have no
    error, as in float32 itself.
    """

    def __init__(self, seed: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._scale = 1.0 + random.Random(f"float32 {seed}").random()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        returned = func(*args, **(kwargs or {}))
        if any(value.alias_info is not None for value in func._schema.returns):
            return returned
        if isinstance(returned, (tuple, list)):
            return type(returned)(self._rounded(value) for value in returned)
        return self._rounded(returned)

    def _rounded(self, value: Any) -> Any:
        if not isinstance(value, Tensor) or value.dtype not in (torch.float64, torch.complex128):
            return value
        if value.is_complex():
            return torch.view_as_complex(self._rounded(torch.view_as_real(value.resolve_conj())))
        scaled = (value * self._scale).to(torch.float32).to(torch.float64).div_(self._scale)
        return torch.where(value.to(torch.float32) == value, value, scaled)
