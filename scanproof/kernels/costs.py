"""What one forward call costs at least: bytes that must move, FLOP that must be done.

An exponential, a division or a root counts as one FLOP.  Each tensor is read or written once: what a kernel moves
beyond that is its own.  Letters as in `scanproof.kernels.ops`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from scanproof.kernels.arguments import axes_of, shape, torch_dtype

if TYPE_CHECKING:
    from scanproof.kernels.arguments import Argument, Output
    from scanproof.kernels.cases import KernelCase
    from scanproof.kernels.op import Op

Sizes = Mapping[str, int]
Options = Mapping[str, Any]


@dataclass(frozen=True)
class Cost:
    """One forward call."""

    bytes: int
    flop: float


def cost(op: Op, case: KernelCase) -> Cost:
    """Every argument that is given read once, every result written once."""
    sizes = op.sizes(case)
    # Of a cache with more rows than the batch only the batch's rows move.
    sizes["N"] = min(sizes["N"], sizes.get("b", sizes["N"]))
    moved = [each for each in op.arguments if not each.optional or each.name in case.given]
    parts: list[Argument | Output] = [*moved, *op.expected_outputs(case)]
    tensors = [(axes_of(each, case), each.dtype) for each in parts if each.axes]
    size = sum(math.prod(shape(axes, sizes)) * torch_dtype(dtype, case).itemsize for axes, dtype in tensors)
    return Cost(size, op.flop(sizes, case.options))


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
