"""What the table of operations says of each operation."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from scanproof.kernels.arguments import Argument, Output
from scanproof.kernels.cases import KernelCase

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
    arguments: tuple[Argument, ...]
    outputs: tuple[Output, ...]
    flop: Callable[[Sizes, Mapping[str, Any]], float]
    """FLOP that must be done for one forward call."""
    derived: Callable[[Sizes], dict[str, int]] = dict
    """Sizes that follow from others, under letters of their own."""
    changes: tuple[str, ...] = ()
    """Arguments that it changes in place; they come after what it returns."""
    dtypes: tuple[str, ...] = ("float32", "float16", "bfloat16")
    matmul: bool = False
    """Whether it multiplies matrices on tensor cores: in float32 those keep 10 bits of mantissa (TF32)."""
    interpreter: str | None = None
    """Why Triton's interpreter cannot run it; None when it can."""
    atol: Mapping[str, float] = field(default_factory=dict)
    """dtype -> the small constant of the criterion, where `errors.ATOL` does not fit; the row says why."""
    atomic: tuple[str, ...] = ()
    """Results that add up atomically on a GPU, so that two calls agree only to rounding (`grad of` a name)."""

    def sizes(self, case: KernelCase) -> dict[str, int]:
        """Sizes of the case and those that follow from them."""
        given = {"N": case.sizes.get("b", 1), "S": len(case.segments), **case.sizes}
        return {**given, **self.derived(given)}

    def implementation(self) -> Callable[..., Any]:
        """The installed operation; ImportError says why it is not there."""
        found: Callable[..., Any] = getattr(importlib.import_module(self.module), self.name)
        return found

    def expected_outputs(self, case: KernelCase) -> tuple[Output, ...]:
        """What this case returns, in order."""
        return tuple(each for each in self.outputs if each.option is None or case.options.get(each.option))


def optional(name: str, axes: str, values: str = "normal", dtype: str = "input") -> Argument:
    """One that a case may leave out."""
    return Argument(name, axes, values, dtype, optional=True)


def fixed(name: str, axes: str, values: str, optional: bool = True) -> Argument:
    """One of whole numbers: indices, lengths."""
    return Argument(name, axes, values, "int32", optional=optional, differentiable=False)
