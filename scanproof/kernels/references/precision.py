"""What a reference holds its intermediate values in.

A reference is called with one floating dtype throughout.  In float64 with `exact` it is the oracle.  In float32 with
`rounded_to(torch.bfloat16)` it is the same-precision PyTorch form: arithmetic in float32, but every operand of a
matrix product and every tensor that the operation hands from one kernel to the next goes through bfloat16, as it
must in any implementation for that dtype.  Autograd sends the gradient through the same roundings.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

DITHERS = tuple(2.0 ** (step / 16) for step in range(16))
"""Scales at which a value meets other neighbours in a floating-point format."""
Hold = Callable[[Tensor], Tensor]


def exact(value: Tensor) -> Tensor:
    """Nothing is lost."""
    return value


def rounded_to(dtype: torch.dtype) -> Hold:
    """Through `dtype` and back; float32 and float64 lose nothing."""
    if dtype in (torch.float32, torch.float64):
        return exact
    return lambda value: value.to(dtype).to(value.dtype)


def dithered(hold: Hold, scale: float) -> Hold:
    """`hold` of a scaled value, scaled back: errors of the same size, but other ones."""
    if scale == 1.0 or hold is exact:
        return hold
    return lambda value: hold(value * scale) / scale


REDUCED = ("allow_fp16_reduced_precision_reduction", "allow_bf16_reduced_precision_reduction")
"""PyTorch's settings, on by default: cuBLAS may add the parts of a product of halves in halves."""


@contextlib.contextmanager
def sum_products_in_float32() -> Iterator[None]:
    """PyTorch's own products of halves are summed in float32, as the forms sum them; afterwards as it was."""
    settings = torch.backends.cuda.matmul
    before = {name: getattr(settings, name) for name in REDUCED}
    try:
        for name in REDUCED:
            setattr(settings, name, False)
        yield
    finally:
        for name, value in before.items():
            setattr(settings, name, value)


def _to_tf32(value: Tensor) -> Tensor:
    if value.dtype != torch.float32:
        return value
    return (value.contiguous().view(torch.int32) & ~0x1FFF).view(torch.float32).view_as(value)


def tf32(value: Tensor) -> Tensor:
    """What tensor cores keep of a float32 operand unless they are told not to (Triton's default for tl.dot).

    They read ten bits of mantissa and ignore the other 13, so values that were not rounded before are cut.
    """
    # The rounding as a difference that has no gradient: the gradient passes as it is.
    return value + (_to_tf32(value.detach()) - value.detach())
