"""The criterion: how far a result is from the float64 reference, and how far it may be.

For every operation and dtype, the error of a result may be at most twice the error of the same-precision PyTorch form,
plus a small constant.  There are two measures of the error.  `rms` is the root mean square error divided by the root
mean square of the reference: it shows a small error in all elements.  `worst` is the largest absolute error: it shows
one wrong element.

The error of a result with few numbers, such as the gradient of A with two heads, depends much on chance, and so does
the error of its PyTorch form.  For such a result the form is run with several roundings of the same size
(`precision.DITHERS`), and the factor is larger than two: an equally good implementation exceeds it once in 100,000
results.

A few elements may have a much larger error than all others, because their terms cancel.  Then the form's worst error
depends as much on chance, however many numbers a result has.  So before a result of halves is called wrong, the form's
error of each element is measured over several roundings (`judge_elements`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

import torch
from torch import Tensor

FACTOR = 2.0
ZERO = 1e-7
"""Absolute error that is allowed where the reference is all zero: terms that cancel exactly there leave an
implementation's rounding.  On an H100 the selective scan left at most 4.1e-8 in the gradient of A at one position."""
FEW = 64
"""For results with fewer numbers than this, the form's error is measured over several roundings."""
DEVIATIONS = 6.4
"""How often its own root mean square error over 16 roundings an element may be off: 6.33 is what Student's t with 16
degrees of freedom exceeds once in 100,000."""
REACH = 8.0
"""A result that is off by more than this multiple of what is allowed is wrong whatever other roundings give."""
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


def measure_error(got: Tensor, reference: Tensor, allowed: Tensor | None = None) -> KernelError:
    """Measure the error of a result against its reference of the same shape.

    Args:
        got: the result, in any floating dtype.
        reference: float64.
        allowed: error that is allowed for each element; the worst one is then that which is off by the largest multiple
            of it.
    """
    if reference.numel() == 0:
        return KernelError(0.0, 0.0, (), 0.0, 0.0)
    error = _absolute_error(got.detach(), reference)
    flat = int((error if allowed is None else error / allowed).argmax())
    index = tuple(int(position) for position in torch.unravel_index(torch.tensor(flat), reference.shape))
    return KernelError(
        rms=_rms(error) / (_rms(reference) or 1.0),
        worst=float(error[index]),
        index=index,
        expected=float(reference[index]),
        got=float(got[index]),
    )


def _absolute_error(got: Tensor, reference: Tensor) -> Tensor:
    """The error of each element, in float64; infinite if it is not finite where the reference is."""
    # In place, because the largest results take GiB.  Equal infinities are no error, though their difference is NaN.
    error = got.to(torch.float64, copy=True).sub_(reference).abs_().masked_fill_(got == reference, 0.0)
    return error.masked_fill_(error.isnan(), float("inf"))


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
    atol_rms: float = 0.0
    """The small constant in `allowed_rms`."""
    atol_worst: float = 0.0
    """The small constant in `allowed_worst`."""
    of_written: KernelError | None = None
    """The error of the numbers that are not NaN, where some are: what is never written is NaN in a test."""

    @property
    def is_right_where_written(self) -> bool:
        """Whether some numbers are NaN, and the others are within what is allowed."""
        error = self.of_written
        return error is not None and error.rms <= self.allowed_rms and error.worst <= self.allowed_worst

    @property
    def is_bounded(self) -> bool:
        """Whether the form says what is allowed: one that overflows, or is no number, says nothing."""
        return math.isfinite(self.allowed_rms) and math.isfinite(self.allowed_worst)

    @property
    def passed(self) -> bool:
        within = self.error.rms <= self.allowed_rms and self.error.worst <= self.allowed_worst
        return within and self.is_bounded

    @property
    def times_allowed(self) -> float:
        """The larger of both errors, as a multiple of what is allowed; at most 1 if the result passed."""
        if not self.is_bounded:
            return math.inf
        return max(self.error.rms / self.allowed_rms, self.error.worst / self.allowed_worst)

    @property
    def near(self) -> bool:
        """Whether it failed, and is so near what is allowed that other roundings of the form may allow it."""
        return not self.passed and self.times_allowed <= REACH

    def __str__(self) -> str:
        e = self.error
        at = ", ".join(map(str, e.index))
        return (
            f"{self.result}[{at}]: expected {e.expected:.9g}, got {e.got:.9g}; "
            f"worst error {e.worst:.3g} (allowed {self.allowed_worst:.3g}), "
            f"rms error {e.rms:.3g} of the reference's rms (allowed {self.allowed_rms:.3g})"
        )


def allowed_factor(count: float) -> float:
    """The multiple of the form's error that is allowed for a result of `count` numbers; 2 for 16 numbers or more.

    Assume independent normal errors.  The result's mean square is over n numbers, the form's over n numbers in each of
    16 roundings: their ratio has the F distribution with n and 16 n degrees of freedom.  1 + 4 / sqrt(n) + 1.4 / n^2
    is above the square root of the quantile that this ratio exceeds with probability 1e-5, for every n below 64; for n
    below 16 it is above it by at most 0.14.
    """
    n = max(count, 1.0)
    return max(FACTOR, 1.0 + 4.0 / math.sqrt(n) + 1.4 / n**2)


def compare_result(
    result: str, got: Tensor, forms: Sequence[Tensor], reference: Tensor, atol: float, typical: float = 0.0
) -> ResultComparison:
    """Apply the criterion to one result.

    Args:
        result: name of the result, for messages.
        got: what the operation returned.
        forms: what the same-precision PyTorch form returned, in the dtype of `got`, once for each rounding.
        reference: what the reference returned, in float64.
        atol: the small constant, see ATOL.
        typical: rms of a gradient of few numbers over several that are sent back, where `atol` is for an error that the
            form does not have (`Op.atol`); 0: the constant is a share of this reference.  See docs/decisions/0005, "A
            gradient that is small by chance".

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
    times = allowed_factor(reference.numel())
    largest = float(torch.linalg.vector_norm(reference, math.inf)) if reference.numel() else 0.0
    atol_rms, atol_worst = (atol, atol * largest) if largest else (ZERO, ZERO)
    if typical and largest:
        chance = times / FACTOR
        atol_rms, atol_worst = (
            atol * chance * max(1.0, typical / _rms(reference)),
            atol * chance * max(largest, typical),
        )
    unwritten = got.isnan()
    return ResultComparison(
        result=result,
        of_written=measure_error(torch.where(unwritten, reference, got), reference) if bool(unwritten.any()) else None,
        error=measure_error(got, reference),
        form=form,
        allowed_rms=times * form.rms + atol_rms,
        allowed_worst=times * form.worst + atol_worst,
        atol_rms=atol_rms,
        atol_worst=atol_worst,
    )


def judge_elements(
    first: ResultComparison, got: Tensor, forms: Sequence[Tensor], reference: Tensor
) -> ResultComparison:
    """Judge a result again, by the form's error of each element over 16 roundings.

    An element is wrong if it was at first, and if it is off by more than `DEVIATIONS` of its own error and the small
    constant.  The factor for the rms error is that for as many numbers as the error is made of: the sum of their mean
    squares over the largest of them.

    Args:
        first: how it was judged by one rounding, or by the worst element of several.
        got, forms, reference: as for `compare_result`.
    """
    squares = torch.stack([_absolute_error(form, reference).square() for form in forms]).mean(dim=0)
    largest = float(squares.max())
    if not math.isfinite(largest):
        return first
    allowed = (DEVIATIONS * squares.sqrt() + first.atol_worst).clamp(min=first.allowed_worst)
    measured = measure_error(got, reference, allowed)
    factor = allowed_factor(float(squares.sum()) / largest) if largest else FACTOR
    form_rms = math.sqrt(float(squares.mean())) / (_rms(reference) or 1.0)
    return replace(
        first,
        error=measured,
        allowed_rms=max(first.allowed_rms, factor * form_rms + first.atol_rms),
        allowed_worst=float(allowed[measured.index]),
    )
