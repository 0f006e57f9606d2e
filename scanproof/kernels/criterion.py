"""How far a result is from the float64 reference, and how far it may be.

The criterion, for every operation and dtype: its error is at most twice the error of the same-precision PyTorch
form plus a small constant, in two measures.  `rms` is root mean square error over root mean square reference: a
change that touches everything shows there.  `worst` is the largest absolute error: one wrong element shows there.

A result of few numbers, such as the gradient of A with two heads, has an error that is a matter of luck, and so has
its PyTorch form.  There the form is run with several roundings of the same size (`precision.DITHERS`), and the
factor is what an equally good implementation exceeds once in 100,000 results.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

import torch
from torch import Tensor

FACTOR = 2.0
FEW = 64
"""Below so many numbers the form's error is taken from several roundings."""
ATOL: Mapping[torch.dtype, float] = MappingProxyType({torch.float32: 2e-6, torch.float16: 1e-3, torch.bfloat16: 8e-3})
"""Relative to the reference's rms for `rms`, to its largest magnitude for `worst`: twice the unit roundoff of a
half, so that a sum of few terms whose PyTorch form happens to hit its value passes.  docs/decisions/0005."""


@dataclass(frozen=True)
class KernelError:
    """Error of one result against float64."""

    rms: float
    """sqrt(mean(error^2)) / sqrt(mean(reference^2)); without the division where the reference is all zero."""
    worst: float
    """Largest absolute error; infinite where the result is not finite and the reference is."""
    index: tuple[int, ...]
    """Where the largest error is."""
    expected: float
    got: float


def measure_error(got: Tensor, reference: Tensor) -> KernelError:
    """Compare a result with its reference of the same shape.

    Args:
        got: any floating dtype.
        reference: float64.
    """
    if reference.numel() == 0:
        return KernelError(0.0, 0.0, (), 0.0, 0.0)
    got = got.detach()
    # In place: the largest cases have results of GiB, and infinity minus infinity is no error.
    error = got.to(torch.float64, copy=True).sub_(reference).abs_().masked_fill_(got == reference, 0.0)
    error.masked_fill_(error.isnan(), float("inf"))
    flat = int(error.argmax())
    index = tuple(int(each) for each in torch.unravel_index(torch.tensor(flat), reference.shape))
    return KernelError(
        rms=_rms(error) / (_rms(reference) or 1.0),
        worst=float(error[index]),
        index=index,
        expected=float(reference[index]),
        got=float(got[index]),
    )


def _rms(value: Tensor) -> float:
    return float(torch.linalg.vector_norm(value)) / math.sqrt(value.numel())


@dataclass(frozen=True)
class ResultComparison:
    """One result of one call: its error, the PyTorch form's error, and what is allowed."""

    result: str
    """Name of the output, or `grad of` the argument."""
    error: KernelError
    form: KernelError
    allowed_rms: float
    allowed_worst: float

    @property
    def passed(self) -> bool:
        return self.error.rms <= self.allowed_rms and self.error.worst <= self.allowed_worst

    def __str__(self) -> str:
        e = self.error
        at = ", ".join(map(str, e.index))
        return (
            f"{self.result}[{at}]: expected {e.expected:.9g}, got {e.got:.9g}; "
            f"worst error {e.worst:.3g} (allowed {self.allowed_worst:.3g}), "
            f"rms error {e.rms:.3g} of the reference's rms (allowed {self.allowed_rms:.3g})"
        )


def allowed_factor(count: int) -> float:
    """How many times the form's error is allowed for a result of `count` numbers: 2 from 16 numbers on.

    The ratio of two mean squares of independent normal errors, one of n numbers and one of n numbers in each of 16
    roundings of the form, has the F distribution with n and 16 n degrees of freedom.  1 + 4 / sqrt(n) + 1.4 / n^2 is
    above the root of its 1e-5 quantile for every n below 64, and by at most 0.14 below 16.
    """
    n = max(count, 1)
    return max(FACTOR, 1.0 + 4.0 / math.sqrt(n) + 1.4 / n**2)


def compare_result(
    result: str, got: Tensor, forms: Sequence[Tensor], reference: Tensor, atol: float
) -> ResultComparison:
    """The criterion on one result.

    Args:
        got: what the operation returned.
        forms: what the same-precision PyTorch form gives, in the dtype of `got`, once per rounding.
        reference: float64.
        atol: the small constant, see ATOL.

    Raises:
        ValueError: the shapes differ.
    """
    if got.shape != reference.shape:
        raise ValueError(f"{result}: has shape {tuple(got.shape)}, expected {tuple(reference.shape)}")
    errors = [measure_error(form, reference) for form in forms]
    form = replace(
        max(errors, key=lambda error: error.worst),
        rms=math.sqrt(sum(error.rms**2 for error in errors) / len(errors)),
    )
    times, largest = (
        allowed_factor(reference.numel()),
        float(torch.linalg.vector_norm(reference, math.inf)) if reference.numel() else 0.0,
    )
    return ResultComparison(
        result=result,
        error=measure_error(got, reference),
        form=form,
        allowed_rms=times * form.rms + atol,
        allowed_worst=times * form.worst + atol * largest,
    )
