"""The type of a row in the table of operations (`operation_table`)."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from scanproof.kernels.cases import KernelCase
from scanproof.kernels.inputs import ArgumentSpec, OutputSpec
from scanproof.kernels.launches import kernel_table

Sizes = Mapping[str, int]
HALVES = ("float16", "bfloat16")
CUDA_ONLY = "it is a CUDA extension; Triton's interpreter runs Triton kernels"
FLOAT32 = "float32"
LOSSY_SOFTPLUS = {FLOAT32: 2e-5}
"""`Op.atol` of operations whose Triton kernels compute softplus as log(1 + exp(x)), as mamba-ssm's do: a step size of
1e-3 keeps 14 of float32's 24 bits."""


@dataclass(frozen=True)
class Op:
    """One operation under test."""

    name: str
    package: str
    """Distribution that contains it."""
    module: str
    """Module that it is imported from."""
    reference: Callable[..., Any]
    """The operation in plain PyTorch; it takes the same arguments, and `hold`."""
    arguments: tuple[ArgumentSpec, ...]
    outputs: tuple[OutputSpec, ...]
    flop: Callable[[Sizes, Mapping[str, Any]], float]
    """Lower bound on the FLOP of a forward call, from sizes and options."""
    backward_flop: Callable[[Sizes, Mapping[str, Any]], float] | None = None
    """Lower bound on the FLOP of a backward call; None: there is no backward pass."""
    adapt: Callable[[Callable[..., Any]], Callable[..., Any]] | None = None
    """From the installed function to one with the reference's arguments and results; None: it has them."""
    derived: Callable[[Sizes], dict[str, int]] = dict
    """Computes sizes that follow from others; they have letters of their own."""
    changes: tuple[str, ...] = ()
    """Arguments that it changes in place; among its results they come after what it returns.  To all others it may not
    write: an argument that a call leaves with other bits fails the case."""
    aliases: tuple[str, ...] = ()
    """Results that may lie in the memory of an argument.  All others stay as they are when arguments are overwritten
    after the call."""
    casts: tuple[str, ...] = ()
    """Arguments that it casts to the dtype of the case, whatever they have; its PyTorch form then does the same."""
    dtypes: tuple[str, ...] = ("float32", "float16", "bfloat16")
    matmul: bool = False
    """Whether it multiplies matrices on tensor cores."""
    tf32: bool = False
    """Whether it does so for float32 as well; tensor cores then keep 10 bits of mantissa.  This is the default of
    Triton's tl.dot, but not of PyTorch's matrix products."""
    approximate: bool = False
    """Whether it takes tanh, sine and cosine from PTX's approximations; then those of the PyTorch form are as exact on
    a GPU (`precision.ApproximateFunctions`)."""
    fast_math: bool = False
    """Whether it is compiled with `--use_fast_math`, so that its exponentials keep 22 bits; then those of the PyTorch
    form keep as few on a GPU."""
    interpreter: str | None = None
    """The reason why Triton's interpreter cannot run it; None when it can."""
    atol: Mapping[str, float] = field(default_factory=dict)
    """dtype -> the small constant of the criterion, where `criterion.ATOL` does not fit; the row says why."""
    atol_with: str = ""
    """Option without which a case has nothing that `atol` is for, and `criterion.ATOL` holds; empty: all cases have."""
    atomic: tuple[str, ...] = ()
    """Results that a GPU sums with atomic additions, in no fixed order: two calls agree only up to rounding.  `grad of
    NAME` is the gradient of an argument."""

    def find_atol(self, case: KernelCase, dtype: str) -> float | None:
        """The small constant of a case, for its results of a dtype, in place of `criterion.ATOL`; None: none."""
        return self.atol.get(dtype) if not self.atol_with or case.options.get(self.atol_with) else None

    def needed_kernels(self, case: KernelCase) -> tuple[str, ...]:
        """Names of the kernels and entry points that a case has to launch."""
        row = kernel_table.find_operation(self.name)
        return (*row.forward, *row.backward) if case.backward else row.forward

    def sizes(self, case: KernelCase) -> dict[str, int]:
        """The sizes of a case and the sizes that follow from them, by letter."""
        given = {"N": case.sizes.get("b", 1), "S": len(case.segments), **case.sizes}
        return {**given, **self.derived(given)}

    def load_implementation(self) -> Callable[..., Any]:
        """Import the installed operation.

        Raises:
            ImportError: the operation, or something that it needs, is not installed; the message says what.
        """
        try:
            with warnings.catch_warnings():
                # Warnings during the import say nothing about the operation's results.
                warnings.simplefilter("ignore")
                operation: Callable[..., Any] = getattr(importlib.import_module(self.module), self.name)
        except (AttributeError, OSError, RuntimeError) as error:
            raise ImportError(f"{type(error).__name__}: {error}") from error
        return operation if self.adapt is None else self.adapt(operation)

    def expected_outputs(self, case: KernelCase) -> tuple[OutputSpec, ...]:
        """What a case returns, in order."""
        return tuple(output for output in self.outputs if output.option is None or case.options.get(output.option))


def take_together(name: str, parts: tuple[str, ...]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Make `Op.adapt` of a function that takes several tensors as one tuple, and returns them as one list.

    Args:
        name: the function's argument, None where none of `parts` is given.
        parts: their names, in order.
    """

    def adapt(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(**arguments: Any) -> Any:
            given = [arguments.pop(part, None) for part in parts]
            together = None if all(part is None for part in given) else tuple(given)
            returned = function(**arguments, **{name: together})
            if isinstance(returned, tuple) and isinstance(returned[-1], list):
                return (*returned[:-1], *returned[-1])
            return returned

        return call

    return adapt


def optional_argument(name: str, axes: str, values: str = "normal", dtype: str = "input") -> ArgumentSpec:
    """Describe an argument that a case may leave out."""
    return ArgumentSpec(name, axes, values, dtype, optional=True)


def integer_argument(name: str, axes: str, values: str, optional: bool = True) -> ArgumentSpec:
    """Describe an argument of integers (int32), such as indices or lengths."""
    return ArgumentSpec(name, axes, values, "int32", optional=optional, differentiable=False)
