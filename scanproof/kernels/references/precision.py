"""The precision in which a reference keeps its intermediate values.

All floating arguments of a reference have one dtype.  In float64, with `hold=exact`, it gives the exact values that
operations are compared with.  In float32, with `hold=rounded_to(torch.bfloat16)`, it is the same-precision PyTorch
form: it computes in float32, but rounds to bfloat16 every operand of a matrix product and every tensor that the
operation hands from one kernel to the next, as any implementation for that dtype must.  Autograd rounds the gradients
in the same places.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

DITHERS = tuple(2.0 ** (step / 16) for step in range(16))
"""Factors between 1 and 2: a value multiplied by each of them is rounded differently."""
Hold = Callable[[Tensor], Tensor]
"""Rounds an intermediate value; its dtype stays."""


def exact(value: Tensor) -> Tensor:
    """Do not round."""
    return value


def rounded_to(dtype: torch.dtype) -> Hold:
    """Make a function that rounds to `dtype` by casting there and back; for float32 and float64 it does not round."""
    if dtype in (torch.float32, torch.float64):
        return exact
    return lambda value: value.to(dtype).to(value.dtype)


def dithered(hold: Hold, scale: float) -> Hold:
    """Make a function that applies `hold` to the scaled value and scales back: different errors of the same size."""
    if scale == 1.0 or hold is exact:
        return hold
    return lambda value: hold(value * scale) / scale


REDUCED = ("allow_fp16_reduced_precision_reduction", "allow_bf16_reduced_precision_reduction")
"""PyTorch's settings, on by default, that let cuBLAS sum partial results of a product of halves in halves."""


@contextlib.contextmanager
def sum_products_in_float32() -> Iterator[None]:
    """In the block, PyTorch sums matrix products of halves in float32, as the same-precision forms do."""
    settings = torch.backends.cuda.matmul
    before = {name: getattr(settings, name) for name in REDUCED}
    try:
        for name in REDUCED:
            setattr(settings, name, False)
        yield
    finally:
        for name, value in before.items():
            setattr(settings, name, value)


def _cut_to_tf32(value: Tensor) -> Tensor:
    """Set the last 13 bits of the mantissa of float32 values to 0."""
    if value.dtype != torch.float32:
        return value
    return (value.contiguous().view(torch.int32) & ~0x1FFF).view(torch.float32).view_as(value)


def tf32(value: Tensor) -> Tensor:
    """Cut a float32 operand to TF32, as tensor cores do by default in Triton's tl.dot.

    Tensor cores read ten bits of the mantissa and ignore the other 13: values are truncated, not rounded.
    """
    # The change is added as a constant, so that the gradient passes unchanged.
    return value + (_cut_to_tf32(value.detach()) - value.detach())
