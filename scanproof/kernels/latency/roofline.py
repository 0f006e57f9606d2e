"""Measures the limits of this device: bytes per second of a copy, FLOP per second of a matrix product per dtype."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from statistics import median

import torch

from scanproof.kernels.cases import KernelCase
from scanproof.kernels.latency.latency_verdict import DeviceLimits
from scanproof.kernels.latency.timing import TimedCalls, Timer, one_round, warm_up
from scanproof.kernels.operation import Op

COPY_BYTES = {"cuda": 2**30, "cpu": 2**26}
"""Bytes of the tensor that is copied."""
PRODUCT = {"cuda": 8192, "cpu": 512}
"""Rows and columns of the square matrices."""
RATES = {"cuda": ("float32", "tf32", "float16", "bfloat16"), "cpu": ("float32",)}
ROUNDS = 20
"""Measurements of each limit; their median counts."""


def measure_limits(device: str, timer: Timer) -> DeviceLimits:
    """Measure the limits of the current device of a kind, `cuda` or `cpu`."""
    source = torch.randn(COPY_BYTES[device] // 4, device=device)
    target = torch.empty_like(source)
    moved = 2 * COPY_BYTES[device] / _measure_seconds(lambda: target.copy_(source), timer)
    return DeviceLimits(
        bytes_per_s=moved,
        flop_per_s={rate: _measure_product(rate, device, timer) for rate in RATES[device]},
    )


def _measure_product(rate: str, device: str, timer: Timer) -> float:
    """FLOP per second of a square matrix product."""
    size = PRODUCT[device]
    dtype = getattr(torch, "float32" if rate == "tf32" else rate)
    # Random numbers, because with zeros a device draws less power and runs faster.
    left, right = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    with _float32_precision("high" if rate == "tf32" else "highest"):
        return 2.0 * size**3 / _measure_seconds(lambda: left @ right, timer)


@contextmanager
def _float32_precision(name: str) -> Iterator[None]:
    """In the block, set PyTorch's precision of float32 matrix products: `high` allows TF32, `highest` does not."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(name)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def _measure_seconds(call: Callable[[], object], timer: Timer) -> float:
    """Median seconds of one call."""
    work = TimedCalls(lambda seed: call)
    # The session has one timer: it still divides by the calls of the case that was measured before.
    timer.calls = 1
    work.resize(1)
    warm_up(work, timer)
    return median(one_round(work, timer) for _ in range(ROUNDS))


def bounding_rate(op: Op, case: KernelCase, device: str) -> str:
    """The key in `DeviceLimits.flop_per_s` that bounds an operation's arithmetic.

    It is the rate of tensor cores for operations that multiply matrices on a GPU, and `float32` for all others.
    """
    if not op.matmul or device == "cpu":
        return "float32"
    return "tf32" if case.dtype == "float32" and op.tf32 else case.dtype
