"""A correct implementation of any operation for machines without a GPU: what faults are planted into.

It stands where the installed kernel stands: arguments in the case's dtypes, states changed in place, gradients.  It
computes the reference in float64, and rounds to float32 after every step of it, forward and backward, and to the
case's dtype wherever the same-precision form does.  The form, against which it is judged, rounds the same values
elsewhere: each rounding here is that of a value scaled by a random number and scaled back.  So its error is as large
as the form's and not the same, as that of another correct kernel is.
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


def make_correct(op: Op, seed: int) -> Callable[..., Any]:
    """The operation, computed correctly and with roundings of its own; equal calls give equal bits.

    Args:
        seed: of the roundings.
    """

    def call(**arguments: Any) -> Any:
        dtype = _input_dtype(op, arguments)
        hold = dithered(rounded_to(dtype), 1.0 + random.Random(seed).random())
        names = [name for name, value in arguments.items() if _is_floating(value) or _is_complex(value)]

        def compute(tensors: Sequence[Tensor]) -> tuple[Tensor, ...]:
            wide = {name: convert(each, torch.float64) for name, each in zip(names, tensors, strict=True)}
            found = op.reference(**{**arguments, **wide}, hold=hold if dtype != torch.float32 else exact)
            return tuple(found)

        apply: Any = _Rounded.apply
        results = apply(compute, seed, *(arguments[name] for name in names))
        return _returned(op, arguments, results, dtype)

    return call


def _is_floating(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point()


def _is_complex(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_complex()


def _input_dtype(op: Op, arguments: dict[str, Any]) -> torch.dtype:
    """The dtype of a case, from an argument that has it: a state may be kept wider than what is scanned."""
    inputs: list[ArgumentSpec] = [
        each for each in op.arguments if each.dtype == "input" and each.name not in op.changes
    ]
    for each in inputs:
        if _is_floating(arguments.get(each.name)):
            dtype: torch.dtype = arguments[each.name].dtype
            return dtype
    raise TypeError(f"{op.name}: no argument is a floating tensor of the case's dtype")


def _returned(op: Op, arguments: dict[str, Any], results: tuple[Tensor, ...], dtype: torch.dtype) -> Any:
    """As the installed operation: states written in place, the others returned, a single one not in a tuple."""
    wanted: list[OutputSpec] = [each for each in op.outputs if each.option is None or arguments.get(each.option)]
    returned = []
    for each, value in zip(wanted, results, strict=True):
        if each.name in op.changes:
            arguments[each.name].copy_(value)
        else:
            returned.append(convert(value, dtype if each.dtype == "input" else getattr(torch, each.dtype)))
    return tuple(returned) if len(returned) > 1 else returned[0]


class _Rounded(torch.autograd.Function):
    """A computation in float64 whose steps are rounded to float32, those of its gradient too."""

    @staticmethod
    def forward(ctx: Any, compute: Compute, seed: int, *tensors: Tensor) -> tuple[Tensor, ...]:
        leaves = [each.detach().requires_grad_(each.requires_grad) for each in tensors]
        needed = any(each.requires_grad for each in leaves)
        with torch.enable_grad() if needed else torch.no_grad(), Rounding(seed):
            results = compute(leaves)
        ctx.results, ctx.leaves, ctx.seed = results, leaves, seed
        return tuple(each.detach() for each in results)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Any, ...]:
        inputs = [each for each in ctx.leaves if each.requires_grad]
        outputs = [(each, given) for each, given in zip(ctx.results, gradients, strict=True) if each.requires_grad]
        with Rounding(ctx.seed + 1):
            found = torch.autograd.grad(
                [each for each, _ in outputs], inputs, [given for _, given in outputs], allow_unused=True
            )
        left = iter(found)
        return (None, None, *(next(left) if each.requires_grad else None for each in ctx.leaves))


class Rounding(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Rounds what every operation on float64 tensors returns to float32's precision, each time at another scale."""

    def __init__(self, seed: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._random = random.Random(seed)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        returned = func(*args, **(kwargs or {}))
        if any(each.alias_info is not None for each in func._schema.returns):
            return returned
        if isinstance(returned, (tuple, list)):
            return type(returned)(self._rounded(each) for each in returned)
        return self._rounded(returned)

    def _rounded(self, value: Any) -> Any:
        if not isinstance(value, Tensor) or value.dtype not in (torch.float64, torch.complex128):
            return value
        scale = 1.0 + self._random.random()
        return convert(convert(value * scale, torch.float32), torch.float64).div_(scale)
