"""The criterion: how far a result is from the float64 reference, and how far it may be.

For every operation and dtype, the error of a result may be at most twice the error of the same-precision PyTorch form,
plus a small constant.  There are two measures of the error.  `rms` is the root mean square error divided by the root
mean square of the reference: it shows a small error in all elements.  `worst` is the largest absolute error: it shows
one wrong element.

The error of a result with few numbers, such as the gradient of A with two heads, depends much on chance, and so does
the error of its PyTorch form.  For such a result the form is run with several roundings of the same size
(`precision.DITHERS`), and the factor is larger than two: an equally good implementation exceeds it once in 100,000
results.
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
"""For results with fewer numbers than this, the form's error is measured over several roundings."""
ATOL: Mapping[torch.dtype, float] = MappingProxyType({torch.float32: 2e-6, torch.float16: 1e-3, torch.bfloat16: 8e-3})
"""dtype -> the small constant: relative to the reference's rms for `rms`, to its largest magnitude for `worst`.  For
halves it is twice the unit roundoff, so that a sum of few terms passes also when the PyTorch form happens to be exact.
See docs/decisions/0005."""


@dataclass(frozen=True)
class KernelError:
    """Error of one result, measured against the float64 reference."""

    rms: float
    """sqrt(mean(error^2)) / sqrt(mean(reference^2)); sqrt(mean(error^2)) if the reference is all zero."""
    worst: float
    """Largest absolute error; infinite if the result is not finite where the reference is."""
    index: tuple[int, ...]
    """Index of the largest error."""
    expected: float
    """The reference's value at that index."""
    got: float
    """The result's value at that index."""


def measure_error(got: Tensor, reference: Tensor) -> KernelError:
    """Measure the error of a result against its reference of the same shape.

    Args:
        got: the result, in any floating dtype.
        reference: float64.
    """
    if reference.numel() == 0:
        return KernelError(0.0, 0.0, (), 0.0, 0.0)
    got = got.detach()
    # In place, because the largest results take GiB.  Equal infinities are no error, though their difference is NaN.
    error = got.to(torch.float64, copy=True).sub_(reference).abs_().masked_fill_(got == reference, 0.0)
    error.masked_fill_(error.isnan(), float("inf"))
    flat = int(error.argmax())
    index = tuple(int(position) for position in torch.unravel_index(torch.tensor(flat), reference.shape))
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
    """One result of one call: its error, the PyTorch form's error, and the allowed error."""

    result: str
    """Name of the output, or `grad of NAME` for the gradient of an argument."""
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
    """The multiple of the form's error that is allowed for a result of `count` numbers; 2 for 16 numbers or more.

    Assume independent normal errors.  The result's mean square is over n numbers, the form's over n numbers in each of
    16 roundings: their ratio has the F distribution with n and 16 n degrees of freedom.  1 + 4 / sqrt(n) + 1.4 / n^2
    is above the square root of the quantile that this ratio exceeds with probability 1e-5, for every n below 64; for n
    below 16 it is above it by at most 0.14.
    """
    n = max(count, 1)
    return max(FACTOR, 1.0 + 4.0 / math.sqrt(n) + 1.4 / n**2)


def compare_result(
    result: str, got: Tensor, forms: Sequence[Tensor], reference: Tensor, atol: float
) -> ResultComparison:
    """Apply the criterion to one result.

    Args:
        result: name of the result, for messages.
        got: what the operation returned.
        forms: what the same-precision PyTorch form returned, in the dtype of `got`, once for each rounding.
        reference: what the reference returned, in float64.
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
