"""Lower bounds on the cost of one call, forward or backward: bytes moved and FLOP done.

An exponential, a division or a root counts as one FLOP.  Each tensor is counted as read or written once; a kernel that
moves more than that moves it needlessly.  A backward pass is counted as recomputing intermediate values that are
larger than the inputs they come from (states, scores), because storing them would move more bytes.
Letters of sizes: see `cases.yaml`.
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
"""Memory for comparing a call with its references, as a multiple of the bytes that the call must move.  The references
hold several float64 copies of what they compute, four times as wide as a half, and the operation has intermediate
results of its own.  Measured without the latter: 5 to 13 times (tests/kernels_unit/test_kernel_memory.py)."""
ROWS_FACTOR = 4
"""The same for cases whose references run on a few rows only; the inputs are drawn in float32."""
LEAST_MEMORY = 4 * 2**30
"""Smallest answer, in bytes: an autograd graph over 65,536 positions keeps a state for each of them, even where the
call moves few bytes."""


@dataclass(frozen=True)
class CallCost:
    """Lower bound on the cost of one call."""

    bytes: int
    """Bytes read and written."""
    flop: float
    """Floating-point operations."""


def forward_cost(op: Op, case: KernelCase) -> CallCost:
    """Cost of a forward call: each argument that the case passes is read once, each result is written once."""
    sizes = _moving_sizes(op, case)
    parts: list[ArgumentSpec | OutputSpec] = [*_given(op, case), *op.expected_outputs(case)]
    return CallCost(sum(_size(part, case, sizes) for part in parts), op.flop(sizes, case.options))


def backward_cost(op: Op, case: KernelCase) -> CallCost:
    """Cost of a backward call.

    The arguments and the gradients of the results are read once, the gradients of the arguments written once.

    Raises:
        ValueError: the operation has no backward pass.
    """
    if op.backward_flop is None:
        raise ValueError(f"{op.name} has no backward pass")
    sizes, given = _moving_sizes(op, case), _given(op, case)
    parts: list[ArgumentSpec | OutputSpec] = [*given, *(part for part in given if part.differentiable)]
    parts += [part for part in op.expected_outputs(case) if part.differentiable]
    return CallCost(sum(_size(part, case, sizes) for part in parts), op.backward_flop(sizes, case.options))


def memory_needed(op: Op, case: KernelCase) -> int:
    """Estimate the bytes of memory for comparing a case with its references, forward and backward."""
    if case.rows:
        return max(LEAST_MEMORY, ROWS_FACTOR * forward_cost(op, case).bytes)
    moved = forward_cost(op, case).bytes + (backward_cost(op, case).bytes if case.backward else 0)
    return max(LEAST_MEMORY, MEMORY_FACTOR * moved)


def _moving_sizes(op: Op, case: KernelCase) -> dict[str, int]:
    """Sizes for counting bytes: if a cache has more rows than the batch, only the batch's rows move."""
    sizes = op.sizes(case)
    return {**sizes, "N": min(sizes["N"], sizes.get("b", sizes["N"]))}


def _given(op: Op, case: KernelCase) -> list[ArgumentSpec]:
    return [argument for argument in op.arguments if not argument.optional or argument.name in case.given]


def _size(part: ArgumentSpec | OutputSpec, case: KernelCase, sizes: Sizes) -> int:
    """Bytes that an argument or output moves; a `tied` one is stored as one number per head."""
    axes = part.moved or axes_of(part, case)
    if not axes:
        return 0
    if case.layouts.get(part.name) == "tied":
        axes = axes[: axes.index("h") + 1]
    return math.prod(shape_of(axes, sizes)) * dtype_of(part, case).itemsize


def selective_scan(s: Sizes, options: Options) -> float:
    """FLOP per state: decay (2), inflow (1), update (2), output (2); per channel: dt x, skip and gate (8)."""
    return s["b"] * s["l"] * s["d"] * (7.0 * s["n"] + 8)


def state_update(s: Sizes, options: Options) -> float:
    """FLOP of one position of `selective_scan`."""
    return s["b"] * s.get("h", 1) * s["p"] * (7.0 * s["n"] + 8)


def convolution(s: Sizes, options: Options) -> float:
    """FLOP: a multiplication and an addition per tap; bias and activation (5)."""
    return s["b"] * s["l"] * s.get("c", s.get("d", 0)) * (2.0 * s["w"] + 5)


def copied_states(s: Sizes, options: Options) -> float:
    """FLOP: none but a choice for each number of a state, that of its input or of 0."""
    return float(s["S"] * s["d"] * s["s"])


def inner(s: Sizes, options: Options) -> float:
    """FLOP of the convolution, three projections and the scan."""
    products = s["d"] * (s["r"] + 2 * s["n"]) + s["d"] * s["r"] + s["d"] * s["m"]
    return convolution(s, options) + 2.0 * s["b"] * s["l"] * products + selective_scan(s, options)


def chunk_scan(s: Sizes, options: Options) -> float:
    """FLOP of C B^T and its product with x in each chunk (the causal half), and of each chunk's state and output."""
    chunk = min(int(options["chunk_size"]), s["l"])
    heads = s["h"] * s["p"]
    return s["b"] * s["l"] * (chunk * (s["g"] * s["n"] + heads) + 4.0 * heads * s["n"])


def delta_recurrence(s: Sizes, options: Options) -> float:
    """FLOP per number of a state: decay (1), what the key finds (2), what is written (2), what the query finds (2)."""
    return s["b"] * s["l"] * s["h"] * s["p"] * (7.0 * s["n"] + 3)


def delta_chunks(s: Sizes, options: Options) -> float:
    """FLOP of q k^T and k k^T in each chunk, of the inverse with k and v, and of q k^T with v (the causal half), and of
    each chunk's state with k, q and v.
    """
    chunk = min(int(options.get("chunk_size", 64)), s["l"])
    keys, values = s["h"] * s["n"], s["h"] * s["p"]
    return s["b"] * s["l"] * (chunk * (2 * s["g"] * s["n"] + keys + 2 * values) + 6.0 * values * s["n"])


def delta_chunks_backward(s: Sizes, options: Options) -> float:
    """FLOP: for each product two gradient products, and half of them recomputed, because states are not stored."""
    return 2.5 * delta_chunks(s, options)


def split_conv_scan(s: Sizes, options: Options) -> float:
    """FLOP of the convolution, SSD, norm and gate (9), the MLP's gate (5), and the output projection, where there are
    such.
    """
    projection = 2.0 * s["f+i"] * s["m"] if "m" in s else 0.0
    rest = 9.0 * s["i"] + 5.0 * s.get("f", 0) + projection
    return convolution(s, options) + chunk_scan(s, options) + s["b"] * s["l"] * rest


def mamba3(s: Sizes, options: Options) -> float:
    """FLOP of `chunk_scan` with rotations: their angles (6 an angle), and what q and k of each head need besides: bias,
    rotation and the product at the position itself (12 a channel).
    """
    rotated = s["b"] * s["l"] * s["h"] * (6.0 * s["a"] + 12 * s["n"])
    chunk = min(int(options.get("chunk_size", 64)), s["l"])
    heads = s["h"] * s["p"]
    # Biases and angles are a head's own, so that no two heads share a product of q and k.
    products = chunk * (s["h"] * s["n"] + heads) + 4.0 * heads * s["n"]
    return rotated + s["b"] * s["l"] * products


def mamba3_step(s: Sizes, options: Options) -> float:
    """FLOP per state: decay (1), two inflows (4), output (2); angles and rotations as in `mamba3`."""
    return s["b"] * s["h"] * (7.0 * s["p"] * s["n"] + 6 * s["a"] + 12 * s["n"])


def attention(s: Sizes, options: Options) -> float:
    """FLOP of two products per pair of query and key; causal attention counts only the pairs that are not masked."""
    queries, keys = s["l"], s.get("m", s["l"])
    pairs = queries * keys
    if options.get("causal"):
        pairs = sum(max(0, min(keys, keys - queries + i + 1)) for i in range(queries))
    return 4.0 * s.get("b", 1) * s["q"] * s["p"] * pairs


def rotation(s: Sizes, options: Options) -> float:
    """FLOP of a forward or a backward call: each pair of channels takes four products and two sums."""
    return 3.0 * s["b"] * s["l"] * s["q"] * s["r"]


def norm(s: Sizes, options: Options) -> float:
    """FLOP of square, sum, scale and weight; a gate or a residual does not change the order of magnitude."""
    return 5.0 * s["b"] * s["l"] * s["d"]


def selective_scan_backward(s: Sizes, options: Options) -> float:
    """FLOP per state: recomputed state (5), its gradient (3), gradients of B, C, delta and A (11); per channel: twice
    those of the forward pass.
    """
    return s["b"] * s["l"] * s["d"] * (19.0 * s["n"] + 16)


def convolution_backward(s: Sizes, options: Options) -> float:
    """FLOP per tap: recomputed input of the activation (2), gradients of x and of the weight (4); activation (10)."""
    return s["b"] * s["l"] * s.get("c", s.get("d", 0)) * (6.0 * s["w"] + 10)


def inner_backward(s: Sizes, options: Options) -> float:
    """FLOP: two products for each of the three projections, and the recomputed x_proj and delta_proj."""
    low_rank = s["d"] * (s["r"] + 2 * s["n"]) + s["d"] * s["r"]
    products = 2.0 * s["b"] * s["l"] * (3 * low_rank + 2 * s["d"] * s["m"])
    return convolution_backward(s, options) + products + selective_scan_backward(s, options)


def chunk_scan_backward(s: Sizes, options: Options) -> float:
    """FLOP: for each pair of products four gradient products, and one of the two recomputed, because scores and states
    are not stored.
    """
    return 2.5 * chunk_scan(s, options)


def mamba3_backward(s: Sizes, options: Options) -> float:
    """FLOP: as for `chunk_scan_backward`; the rotations twice."""
    return 2.5 * mamba3(s, options)


def split_conv_scan_backward(s: Sizes, options: Options) -> float:
    """FLOP of the convolution, SSD, norm and gates (twice the forward pass), and two products for the projection."""
    projection = 4.0 * s["f+i"] * s["m"] if "m" in s else 0.0
    rest = s["b"] * s["l"] * (18.0 * s["i"] + 10.0 * s.get("f", 0) + projection)
    return convolution_backward(s, options) + chunk_scan_backward(s, options) + rest


def attention_backward(s: Sizes, options: Options) -> float:
    """FLOP: four gradient products, and the recomputed scores."""
    return 2.5 * attention(s, options)


def norm_backward(s: Sizes, options: Options) -> float:
    """FLOP of the recomputed normalized values and of the gradients of x and of the weight."""
    return 2.0 * norm(s, options)
