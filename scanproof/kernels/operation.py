"""What the table of operations says of each operation."""

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
# mamba-ssm's Triton kernels compute softplus as log(1 + exp(x)): a step of 1e-3 keeps 14 of float32's 24 bits.
LOSSY_SOFTPLUS = {FLOAT32: 2e-5}


@dataclass(frozen=True)
class Op:
    """One operation under test."""

    name: str
    package: str
    """Distribution that brings it."""
    module: str
    """Where it is imported from, when it is needed."""
    reference: Callable[..., Any]
    arguments: tuple[ArgumentSpec, ...]
    outputs: tuple[OutputSpec, ...]
    flop: Callable[[Sizes, Mapping[str, Any]], float]
    """FLOP that must be done for one forward call."""
    backward_flop: Callable[[Sizes, Mapping[str, Any]], float] | None = None
    """FLOP that must be done for one backward call; None: it has none."""
    derived: Callable[[Sizes], dict[str, int]] = dict
    """Sizes that follow from others, under letters of their own."""
    changes: tuple[str, ...] = ()
    """Arguments that it changes in place; they come after what it returns."""
    dtypes: tuple[str, ...] = ("float32", "float16", "bfloat16")
    matmul: bool = False
    """Whether it multiplies matrices on tensor cores."""
    tf32: bool = False
    """Whether it does so in float32 as well: they keep 10 bits of mantissa then.  It is the default of Triton's
    tl.dot, and not of PyTorch's products."""
    interpreter: str | None = None
    """Why Triton's interpreter cannot run it; None when it can."""
    atol: Mapping[str, float] = field(default_factory=dict)
    """dtype -> the small constant of the criterion, where `errors.ATOL` does not fit; the row says why."""
    atomic: tuple[str, ...] = ()
    """Results that add up atomically on a GPU, so that two calls agree only to rounding (`grad of` a name)."""

    def needed_kernels(self, case: KernelCase) -> tuple[str, ...]:
        """Kernels and entry points that a case has to launch."""
        row = kernel_table.find_operation(self.name)
        return (*row.forward, *row.backward) if case.backward else row.forward

    def sizes(self, case: KernelCase) -> dict[str, int]:
        """Sizes of the case and those that follow from them."""
        given = {"N": case.sizes.get("b", 1), "S": len(case.segments), **case.sizes}
        return {**given, **self.derived(given)}

    def load_implementation(self) -> Callable[..., Any]:
        """The installed operation.

        Raises:
            ImportError: it is not there, or what it needs is not; the message says what.
        """
        try:
            with warnings.catch_warnings():
                # What a package warns of while it is imported is no result of this suite's.
                warnings.simplefilter("ignore")
                found: Callable[..., Any] = getattr(importlib.import_module(self.module), self.name)
        except (AttributeError, OSError, RuntimeError) as error:
            raise ImportError(f"{type(error).__name__}: {error}") from error
        return found

    def expected_outputs(self, case: KernelCase) -> tuple[OutputSpec, ...]:
        """What this case returns, in order."""
        return tuple(each for each in self.outputs if each.option is None or case.options.get(each.option))


def optional_argument(name: str, axes: str, values: str = "normal", dtype: str = "input") -> ArgumentSpec:
    """One that a case may leave out."""
    return ArgumentSpec(name, axes, values, dtype, optional=True)


def integer_argument(name: str, axes: str, values: str, optional: bool = True) -> ArgumentSpec:
    """One of whole numbers: indices, lengths."""
    return ArgumentSpec(name, axes, values, "int32", optional=optional, differentiable=False)
