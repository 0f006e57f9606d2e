"""A Triton kernel with two configurations, of which a made-up measurement finds the second faster."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import triton
import triton.language as tl
from torch import Tensor

FASTEST = 32


def measure(call: Callable[[], Any], quantiles: Any = None) -> list[float]:
    """Seconds of a configuration: there is no GPU to measure on, so the order in which they come decides."""
    call()
    return [next(TIMES)] * 3


TIMES = itertools.cycle((2.0, 1.0))


@triton.autotune(  # type: ignore[untyped-decorator]
    configs=[triton.Config({"BLOCK": 16}, num_warps=2), triton.Config({"BLOCK": FASTEST}, num_warps=4)],
    key=["n"],
    do_bench=measure,
)
@triton.jit  # type: ignore[untyped-decorator]
def double_kernel(x, out, n, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    offsets = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(out + offsets, 2 * tl.load(x + offsets, mask=offsets < n), mask=offsets < n)


def double(x: Tensor) -> Tensor:
    """2 x, for a contiguous vector."""
    out = x.clone()
    double_kernel[lambda meta: (triton.cdiv(x.numel(), meta["BLOCK"]),)](x, out, x.numel())
    return out
