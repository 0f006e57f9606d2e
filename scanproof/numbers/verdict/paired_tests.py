"""Two runs of the same documents, document by document: paired tests without a noise constant.  Pure.

Between two correct runs of one checkpoint on one set of documents, floating-point noise moves each document up as
often as down, each on its own.  Every tail here follows from that symmetry alone, whatever the noise's size or shape:

    flips    gained against lost, exact McNemar: the tail of a fair coin (McNemar, Psychometrika 12, 1947)
    shifts   T = sum(d) / sqrt(sum(d^2)); P(T >= x) <= min(exp(-x^2 / 2), (2 e^3 / 9) P(N >= x)) for independent
             symmetric d and a standard normal N (Efron, JASA 64, 1969; Pinelis, Ann. Statist. 22, 1994)

`docs/decisions/0010-second-gate.md` says what is compared and how the rate of false alarms is shared.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

PINELIS = 2 * math.e**3 / 9


class ComparisonOutcome(StrEnum):
    """How a comparison with the baseline ended."""

    SAME = "SAME"
    CHANGED = "CHANGED"
    REFUSED = "REFUSED"
    """Not compared; the reason is said.  Neither a pass nor a failure."""


@dataclass(frozen=True, kw_only=True)
class PairedTest:
    """One question asked of the pairs."""

    name: str
    """`flips`, `margins`, `loglikelihoods`, `scores`, `noise` or `finite`."""
    documents: int
    p_value: float | None
    """Upper bound of the probability of such pairs between two correct runs; None where one answer decides."""
    level: float | None
    """The share of the suite's false alarms that this test may use."""
    changed: bool
    gained: int | None = None
    lost: int | None = None
    shift: float | None = None
    """Mean difference, now minus baseline: nats, or the unit of the score."""
    because: str


@dataclass(frozen=True, kw_only=True)
class PairedComparison:
    """One number, or several together, compared document by document with the baseline."""

    subject: str
    """Id of the number, name of the model, or `night`."""
    outcome: ComparisonOutcome
    baseline: str
    """What it was compared with."""
    because: str
    tests: tuple[PairedTest, ...] = ()

    @property
    def changed(self) -> bool:
        return self.outcome is ComparisonOutcome.CHANGED


def mcnemar(gained: int, lost: int) -> float:
    """Exact two-sided p-value of McNemar's test: a fair coin, tossed once per flipped document."""
    flipped = gained + lost
    if flipped == 0:
        return 1.0
    from scipy.special import bdtr

    return min(1.0, 2.0 * float(bdtr(min(gained, lost), flipped, 0.5)))


def symmetric_tail(statistic: float) -> float:
    """Upper bound of P(T >= statistic), for independent symmetric differences of any sizes."""
    if statistic <= 0:
        return 1.0
    normal = 0.5 * math.erfc(statistic / math.sqrt(2))
    return min(1.0, math.exp(-(statistic**2) / 2), PINELIS * normal)


def self_normalised(differences: Iterable[float]) -> float:
    """sum(d) / sqrt(sum(d^2)); 0 where every difference is 0."""
    kept = list(differences)
    largest = max((abs(d) for d in kept), default=0.0)
    if largest == 0:
        return 0.0
    scaled = [d / largest for d in kept]
    return math.fsum(scaled) / math.sqrt(math.fsum(d * d for d in scaled))


def shift_p_value(differences: Sequence[float], margin: float = 0.0) -> float:
    """Two-sided p-value of the hypothesis that the differences lie symmetrically around at most `margin` from 0."""
    up = self_normalised(d - margin for d in differences)
    down = self_normalised(-d - margin for d in differences)
    return min(1.0, 2.0 * symmetric_tail(max(up, down)))


def pooled_shift_p_value(groups: Iterable[Sequence[float]], margin: float = 0.0) -> float:
    """The same over groups of differences, each group scaled by its own root mean square.

    The scale depends on the sizes of the differences only, so that the symmetry of their signs is untouched; without
    it the task with the longest answers would decide alone.
    """
    kept = [list(group) for group in groups]
    sides = [self_normalised(d for group in kept for d in scaled(group, sign, margin)) for sign in (1, -1)]
    return min(1.0, 2.0 * symmetric_tail(max(sides)))


def scaled(group: Sequence[float], sign: int, margin: float) -> list[float]:
    """Differences less the margin, over their root mean square."""
    moved = [sign * d - margin for d in group]
    size = math.sqrt(math.fsum(d * d for d in moved) / len(moved)) if moved else 0.0
    return [d / size for d in moved] if size > 0 else [0.0] * len(moved)


def flips_test(gained: int, lost: int, documents: int, level: float) -> PairedTest:
    """Are more documents gained than lost, or fewer, than a fair coin explains?"""
    p_value = mcnemar(gained, lost)
    because = f"{gained} documents gained, {lost} lost of {documents}: p = {p_value:.2g} (exact McNemar)"
    return PairedTest(
        name="flips", documents=documents, p_value=p_value, level=level, changed=p_value <= level,
        gained=gained, lost=lost, because=because,
    )  # fmt: skip


def shift_test(
    name: str, groups: Sequence[Sequence[float]], level: float, *, margin: float, unit: str = "nats"
) -> PairedTest:
    """Do the documents move in one direction, by more than `margin`?  Several groups: each on its own scale.

    What is not finite has no size; `finite_test` tells of it.
    """
    groups = [[d for d in group if math.isfinite(d)] for group in groups]
    together = [d for group in groups for d in group]
    p_value = shift_p_value(together, margin) if len(groups) == 1 else pooled_shift_p_value(groups, margin)
    shift = math.fsum(together) / len(together) if together else 0.0
    beyond = f", {margin:.2g} allowed" if margin else ""
    because = f"{name} moved by {shift:+.3g} {unit} on average of {len(together)} documents{beyond}: p <= {p_value:.2g}"
    return PairedTest(
        name=name, documents=len(together), p_value=p_value, level=level, changed=p_value <= level, shift=shift,
        because=because,
    )  # fmt: skip


def noise_test(differences: Sequence[float], ceiling: float | None, unbounded: str = "") -> PairedTest:
    """Does any answer move further than floating-point noise of this kind of run can move it?

    Args:
        ceiling: nats; None where it is not known, so that the largest move is said and decides nothing.
        unbounded: what was computed in, and on what, where it is not known.
    """
    largest = max((abs(d) for d in differences), default=0.0)
    over = 0 if ceiling is None else sum(abs(d) > ceiling for d in differences)
    said = f"; {over} of {len(differences)} answers by more" if over else ""
    possible = (
        f"what rounding can do in {unbounded} is not known: this alone is no change"
        if ceiling is None
        else f"{ceiling:g} is possible by rounding"
    )
    because = f"the answer that moved most moved by {largest:.2g} nats, {possible}{said}"
    return PairedTest(
        name="noise", documents=len(differences), p_value=None, level=None, changed=over > 0, shift=largest,
        because=because,
    )  # fmt: skip


def finite_test(differences: Sequence[float]) -> PairedTest:
    """Is any answer a number in one run only?  Noise does not do that, and the other tests cannot see it."""
    lost = sum(not math.isfinite(d) for d in differences)
    because = f"{lost} of {len(differences)} answers are no finite number in one of the two"
    return PairedTest(
        name="finite", documents=len(differences), p_value=None, level=None, changed=lost > 0, because=because
    )


def conclude(subject: str, baseline: str, tests: Sequence[PairedTest]) -> PairedComparison:
    """What the tests say together; each has its own share of the level, so one of them is enough."""
    changed = [test for test in tests if test.changed]
    said = "; ".join(test.because for test in (changed or tests))
    outcome = ComparisonOutcome.CHANGED if changed else ComparisonOutcome.SAME
    because = f"changed since {baseline}: {said}" if changed else f"as in {baseline}: {said}"
    return PairedComparison(subject=subject, outcome=outcome, baseline=baseline, because=because, tests=tuple(tests))


def refuse(subject: str, baseline: str, because: str) -> PairedComparison:
    """A comparison that would mean nothing."""
    said = f"not compared with {baseline}: {because}"
    return PairedComparison(subject=subject, outcome=ComparisonOutcome.REFUSED, baseline=baseline, because=said)
