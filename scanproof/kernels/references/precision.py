"""The precision in which a reference keeps its intermediate values.

All floating arguments of a reference have one dtype.  In float64, with `hold=exact`, it gives the exact values that
operations are compared with.  In float32, with `hold=rounded_to(torch.bfloat16)`, it is the same-precision PyTorch
form: it computes in float32, but rounds to bfloat16 every operand of a matrix product and every tensor that the
operation hands from one kernel to the next, as any implementation for that dtype must.  Autograd rounds the gradients
in the same places.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

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


def _cut_to_tf32(value: Tensor) -> Tensor:
    """Set the last 13 bits of the mantissa of float32 values to 0."""
    if value.dtype != torch.float32:
        return value
    return (value.contiguous().view(torch.int32) & ~0x1FFF).view(torch.float32).view_as(value)


def tf32(value: Tensor) -> Tensor:
    """Cut a float32 operand to TF32, as tensor cores do by default in Triton's tl.dot, and its gradient as well.

    Tensor cores read ten bits of the mantissa and ignore the other 13: values are truncated, not rounded.
    """
    # The change is added as a constant, so that the gradient passes.
    cut = value + (_cut_to_tf32(value.detach()) - value.detach())
    if cut.requires_grad:
        cut.register_hook(_cut_to_tf32)  # type: ignore[no-untyped-call]
    return cut


APPROXIMATE_TANH = 2.0**-11
"""Largest relative error of `tanh.approx.f32` over all inputs.

Source: NVIDIA's PTX ISA, Floating Point Instructions: tanh (section 9.7.3.22): 2^-11.
"""
APPROXIMATE_SINE = 2.0**-20
"""Step to which sines and cosines are rounded, so that they are off by at most 2^-21.

That is less than `sin.approx.f32` and `cos.approx.f32` may be.  Source: NVIDIA's PTX ISA, Floating Point Instructions:
sin, cos (sections 9.7.3.18 and 9.7.3.19): an absolute error of at most 2^-20.5 from -2 pi to 2 pi, of 2^-14.7 from
-100 pi to 100 pi, and no bound outside.
"""


class ApproximateFunctions(TorchFunctionMode):
    """In the block, float32's `torch.tanh`, `torch.sin` and `torch.cos` are as exact as PTX's approximations.

    Values are rounded, tanh so that it is off by at most `APPROXIMATE_TANH` of itself.  Its derivative is computed from
    the rounded value, as a kernel does that takes 1 - tanh^2 from the same instruction.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.tanh and args[0].dtype == torch.float32:
            return _approximate_tanh(args[0])
        result = func(*args, **(kwargs or {}))
        if func not in (torch.sin, torch.cos) or result.dtype != torch.float32:
            return result
        exact_value = result.detach()
        return result + (torch.round(exact_value / APPROXIMATE_SINE) * APPROXIMATE_SINE - exact_value)


def _approximate_tanh(value: Tensor) -> Tensor:
    """tanh with a mantissa of eleven bits, and the derivative that a kernel makes of it."""
    exact = value.detach()
    mantissa, power = torch.frexp(torch.tanh(exact))
    rounded = torch.ldexp(torch.round(mantissa / APPROXIMATE_TANH) * APPROXIMATE_TANH, power)
    return rounded + (value - exact) * (1 - rounded.square())


FAST_EXP = 2.0**-22
"""Largest relative error of `ex2.approx.f32`, which a compiler takes for exp under `--use_fast_math`.

Source: NVIDIA's PTX ISA, Floating Point Instructions: ex2 (section 9.7.3.21): 2 ulp from the correctly rounded result,
which are 2^-22 of a power of two, and less of other numbers.  What exp adds to it, the rounding of its argument times
log2(e), is not in this bound.
"""


class FastExponentials(TorchFunctionMode):
    """In the block, `torch.exp` is as exact as in a kernel that was compiled with `--use_fast_math`.

    Its modulus is rounded, so that it is off by at most `FAST_EXP` of itself; gradients go through the rounded value.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func not in (torch.exp, Tensor.exp) or result.dtype not in (torch.float32, torch.complex64):
            return result
        exponent = args[0].detach()
        modulus = torch.exp(exponent.real if exponent.is_complex() else exponent)
        mantissa, power = torch.frexp(modulus)
        rounded = torch.ldexp(torch.round(mantissa / FAST_EXP) * FAST_EXP, power)
        # As a factor, because the derivative of exp, which is exp, has the same error.
        return result * torch.where(modulus == 0, 1.0, rounded / modulus)
