"""What one call costs at least: bytes that must move, FLOP that must be done, forward and backward.

An exponential, a division or a root counts as one FLOP.  Each tensor is read or written once: what a kernel moves
beyond that is its own.  Backward computes again what is larger than the inputs that give it (states, scores), as any
version must that does not move it instead.  Letters as in `scanproof.kernels.operation_table`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from scanproof.kernels.inputs import axes_of, dtype_of, shape_of

if TYPE_CHECKING:
    from scanproof.kernels.cases import KernelCase
    from scanproof.kernels.inputs import ArgumentSpec, OutputSpec
    from scanproof.kernels.operation import Op

Sizes = Mapping[str, int]
Options = Mapping[str, Any]


MEMORY_FACTOR = 16
"""Memory that comparing a call with its references takes, in units of the bytes that it must move: the references hold
several copies of what they compute in float64, four times as wide as a half, and an operation has intermediate results
of its own.  Counted without the latter: 5 to 13 times (tests/kernels_unit/test_kernel_memory.py)."""
ROWS_FACTOR = 4
"""The same where the references run on two rows only: inputs are drawn in float32."""
LEAST_MEMORY = 4 * 2**30
"""Bytes that are asked for at least: a graph over 65,536 positions keeps a state for each, however little moves."""


@dataclass(frozen=True)
class CallCost:
    """One call."""

    bytes: int
    flop: float


def forward_cost(op: Op, case: KernelCase) -> CallCost:
    """A forward call: every argument that is given read once, every result written once."""
    sizes = _moving_sizes(op, case)
    parts: list[ArgumentSpec | OutputSpec] = [*_given(op, case), *op.expected_outputs(case)]
    return CallCost(sum(_size(each, case, sizes) for each in parts), op.flop(sizes, case.options))


def backward_cost(op: Op, case: KernelCase) -> CallCost:
    """A backward call: arguments and gradients of the results read once, gradients of the arguments written once.

    Raises:
        ValueError: the operation has no backward pass.
    """
    if op.backward_flop is None:
        raise ValueError(f"{op.name} has no backward pass")
    sizes, given = _moving_sizes(op, case), _given(op, case)
    parts: list[ArgumentSpec | OutputSpec] = [*given, *(each for each in given if each.differentiable)]
    parts += [each for each in op.expected_outputs(case) if each.differentiable]
    return CallCost(sum(_size(each, case, sizes) for each in parts), op.backward_flop(sizes, case.options))


def memory_needed(op: Op, case: KernelCase) -> int:
    """Bytes of memory, about, that comparing a case with its references takes, forward and backward."""
    if case.rows:
        return max(LEAST_MEMORY, ROWS_FACTOR * forward_cost(op, case).bytes)
    moved = forward_cost(op, case).bytes + (backward_cost(op, case).bytes if case.backward else 0)
    return max(LEAST_MEMORY, MEMORY_FACTOR * moved)


def _moving_sizes(op: Op, case: KernelCase) -> dict[str, int]:
    """Of a cache with more rows than the batch only the batch's rows move."""
    sizes = op.sizes(case)
    return {**sizes, "N": min(sizes["N"], sizes.get("b", sizes["N"]))}


def _given(op: Op, case: KernelCase) -> list[ArgumentSpec]:
    return [each for each in op.arguments if not each.optional or each.name in case.given]


def _size(part: ArgumentSpec | OutputSpec, case: KernelCase, sizes: Sizes) -> int:
    """Bytes that move; what is tied is one number per head in memory."""
    axes = getattr(part, "moved", None) or axes_of(part, case)
    if not axes:
        return 0
    if case.layouts.get(part.name) == "tied":
        axes = axes[: axes.index("h") + 1]
    return math.prod(shape_of(axes, sizes)) * dtype_of(part, case).itemsize


def selective_scan(s: Sizes, options: Options) -> float:
    """Per state: decay (2), inflow (1), update (2), output (2); per channel: dt x, skip and gate (8)."""
    return s["b"] * s["l"] * s["d"] * (7.0 * s["n"] + 8)


def state_update(s: Sizes, options: Options) -> float:
    """One position of `selective_scan`."""
    return s["b"] * s.get("h", 1) * s["p"] * (7.0 * s["n"] + 8)


def convolution(s: Sizes, options: Options) -> float:
    """A multiplication and an addition per tap, bias and activation (5)."""
    return s["b"] * s["l"] * s.get("c", s.get("d", 0)) * (2.0 * s["w"] + 5)


def inner(s: Sizes, options: Options) -> float:
    """Convolution, three projections, scan."""
    products = s["d"] * (s["r"] + 2 * s["n"]) + s["d"] * s["r"] + s["d"] * s["m"]
    return convolution(s, options) + 2.0 * s["b"] * s["l"] * products + selective_scan(s, options)


def chunk_scan(s: Sizes, options: Options) -> float:
    """C B^T and its product with x within chunks, causal half; states in and out of every chunk."""
    chunk = min(int(options["chunk_size"]), s["l"])
    heads = s["h"] * s["p"]
    return s["b"] * s["l"] * (chunk * (s["g"] * s["n"] + heads) + 4.0 * heads * s["n"])


def split_conv_scan(s: Sizes, options: Options) -> float:
    """Convolution, SSD, norm and gate (9), output projection where there is one."""
    projection = 2.0 * s["i"] * s["m"] if "m" in s else 0.0
    return convolution(s, options) + chunk_scan(s, options) + s["b"] * s["l"] * (9.0 * s["i"] + projection)


def attention(s: Sizes, options: Options) -> float:
    """Two products per pair of query and key; of a square causal matrix half."""
    queries, keys = s["l"], s.get("m", s["l"])
    pairs = queries * keys
    if options.get("causal"):
        pairs = sum(max(0, min(keys, keys - queries + i + 1)) for i in range(queries))
    return 4.0 * s.get("b", 1) * s["q"] * s["p"] * pairs


def norm(s: Sizes, options: Options) -> float:
    """Square, sum, scale, weight; a gate or a residual within the same order."""
    return 5.0 * s["b"] * s["l"] * s["d"]


def selective_scan_backward(s: Sizes, options: Options) -> float:
    """Per state: the state again (5), its gradient (3), gradients of B, C, delta and A (11); per channel twice."""
    return s["b"] * s["l"] * s["d"] * (19.0 * s["n"] + 16)


def convolution_backward(s: Sizes, options: Options) -> float:
    """Per tap: what the activation saw again (2), gradients of x and of the weight (4); activation (10)."""
    return s["b"] * s["l"] * s.get("c", s.get("d", 0)) * (6.0 * s["w"] + 10)


def inner_backward(s: Sizes, options: Options) -> float:
    """Two products for each of the three projections, and x_proj and delta_proj again."""
    low_rank = s["d"] * (s["r"] + 2 * s["n"]) + s["d"] * s["r"]
    products = 2.0 * s["b"] * s["l"] * (3 * low_rank + 2 * s["d"] * s["m"])
    return convolution_backward(s, options) + products + selective_scan_backward(s, options)


def chunk_scan_backward(s: Sizes, options: Options) -> float:
    """Of each pair of products four gradients, and one of the two again: scores and states are not kept."""
    return 2.5 * chunk_scan(s, options)


def split_conv_scan_backward(s: Sizes, options: Options) -> float:
    """Convolution, SSD, norm and gate (twice forward), two products for the projection."""
    projection = 4.0 * s["i"] * s["m"] if "m" in s else 0.0
    rest = s["b"] * s["l"] * (18.0 * s["i"] + projection)
    return convolution_backward(s, options) + chunk_scan_backward(s, options) + rest


def attention_backward(s: Sizes, options: Options) -> float:
    """Four products of gradients, and the scores again."""
    return 2.5 * attention(s, options)


def norm_backward(s: Sizes, options: Options) -> float:
    """Normed values again, gradients of x and of the weight."""
    return 2.0 * norm(s, options)
