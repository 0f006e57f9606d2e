"""Paired tests of two runs on the same documents; they need no constant for the noise.  Pure.

Between two correct runs of one checkpoint, floating-point noise moves each document up as often as down,
independently of the others.  Every bound here follows from that symmetry alone, for noise of any size and shape:

    flips    gained against lost documents: exact McNemar test, a fair coin (McNemar, Psychometrika 12, 1947)
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


TOKENS = "tokens of "
"""Begins the subject of a comparison of how text becomes tokens; the name of the job follows."""


class ComparisonOutcome(StrEnum):
    """Result of a comparison with the baseline."""

    SAME = "SAME"
    CHANGED = "CHANGED"
    REFUSED = "REFUSED"
    """Not compared, with a reason.  Where the comparison is due, the number fails by it: COMPARISON_MISSING."""


@dataclass(frozen=True, kw_only=True)
class PairedTest:
    """One test of the pairs."""

    name: str
    """`flips`, `margins`, `loglikelihoods`, `scores`, `noise`, `finite`, `unexplained` or `print`."""
    documents: int
    p_value: float | None
    """Upper bound of the probability of such pairs between two correct runs; None where a single answer decides."""
    level: float | None
    """Rate of false alarms that this test may have."""
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
    """Id of the number, name of the model, `night`, or `tokens of JOB`."""
    outcome: ComparisonOutcome
    baseline: str
    """Name of the baseline; `what was printed` where the printed numbers of a model were compared together."""
    because: str
    tests: tuple[PairedTest, ...] = ()
    remedy: str = ""
    """What to do about it, in one line, where nothing could be compared."""

    @property
    def sentence(self) -> str:
        """The result with its subject, where the subject is no single number."""
        if self.subject.startswith(TOKENS):
            return self.because
        return f"all numbers of {self.subject} together: {self.because}"

    @property
    def changed(self) -> bool:
        """Whether it differs from the baseline by more than noise."""
        return self.outcome is ComparisonOutcome.CHANGED


def mcnemar(gained: int, lost: int) -> float:
    """Exact two-sided p-value of McNemar's test: one toss of a fair coin for each flipped document."""
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
    values = list(differences)
    largest = max((abs(d) for d in values), default=0.0)
    if largest == 0:
        return 0.0
    relative = [d / largest for d in values]
    return math.fsum(relative) / math.sqrt(math.fsum(d * d for d in relative))


def shift_p_value(differences: Sequence[float], margin: float = 0.0) -> float:
    """Two-sided p-value of the hypothesis that the differences lie symmetrically around at most `margin` from 0."""
    up = self_normalised(d - margin for d in differences)
    down = self_normalised(-d - margin for d in differences)
    return min(1.0, 2.0 * symmetric_tail(max(up, down)))


def pooled_shift_p_value(groups: Iterable[Sequence[float]], margin: float = 0.0) -> float:
    """`shift_p_value` over several groups of differences, each divided by its own root mean square.

    The scale depends only on the sizes of the differences, so their signs stay symmetric.  Without it, the task with
    the longest answers would decide alone.
    """
    lists = [list(group) for group in groups]
    sides = [self_normalised(d for group in lists for d in scale_group(group, sign, margin)) for sign in (1, -1)]
    return min(1.0, 2.0 * symmetric_tail(max(sides)))


def scale_group(group: Sequence[float], sign: int, margin: float) -> list[float]:
    """Subtract the margin from each difference, and divide by the root mean square."""
    moved = [sign * d - margin for d in group]
    size = math.sqrt(math.fsum(d * d for d in moved) / len(moved)) if moved else 0.0
    return [d / size for d in moved] if size > 0 else [0.0] * len(moved)


def flips_test(gained: int, lost: int, documents: int, level: float) -> PairedTest:
    """Test whether gained and lost documents differ by more than a fair coin explains."""
    p_value = mcnemar(gained, lost)
    because = f"{gained} documents gained, {lost} lost of {documents}: p = {p_value:.2g} (exact McNemar)"
    return PairedTest(
        name="flips", documents=documents, p_value=p_value, level=level, changed=p_value <= level,
        gained=gained, lost=lost, because=because,
    )  # fmt: skip


def shift_test(
    name: str, groups: Sequence[Sequence[float]], level: float, *, margin: float, unit: str = "nats"
) -> PairedTest:
    """Test whether the documents move in one direction by more than `margin`; each group has a scale of its own.

    Infinite and NaN differences are left out; `finite_test` reports them.
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
    """Test whether any answer moves further than rounding can move it in this kind of run.

    Args:
        ceiling: nats; None where it is not known: then the largest move is reported but is no change.
        unbounded: dtype and device, `float32 on cuda:0`, where the ceiling is not known.
    """
    largest = max((abs(d) for d in differences), default=0.0)
    over = 0 if ceiling is None else sum(abs(d) > ceiling for d in differences)
    exceeding = f"; {over} of {len(differences)} answers by more" if over else ""
    possible = (
        f"what rounding can do in {unbounded} is not known: this alone is no change"
        if ceiling is None
        else f"{ceiling:g} is possible by rounding"
    )
    because = f"the answer that moved most moved by {largest:.2g} nats, {possible}{exceeding}"
    return PairedTest(
        name="noise", documents=len(differences), p_value=None, level=None, changed=over > 0, shift=largest,
        because=because,
    )  # fmt: skip


def finite_test(differences: Sequence[float]) -> PairedTest:
    """Test whether any answer is finite in one run only.  Noise cannot do that, and the other tests cannot see it."""
    lost = sum(not math.isfinite(d) for d in differences)
    because = f"{lost} of {len(differences)} answers are no finite number in one of the two"
    return PairedTest(
        name="finite", documents=len(differences), p_value=None, level=None, changed=lost > 0, because=because
    )


def conclude(subject: str, baseline: str, tests: Sequence[PairedTest]) -> PairedComparison:
    """Combine the tests: CHANGED if any of them is.  They share the level, so one is enough."""
    changed = [test for test in tests if test.changed]
    reasons = "; ".join(test.because for test in (changed or tests))
    outcome = ComparisonOutcome.CHANGED if changed else ComparisonOutcome.SAME
    because = f"changed since {baseline}: {reasons}" if changed else f"as in {baseline}: {reasons}"
    return PairedComparison(subject=subject, outcome=outcome, baseline=baseline, because=because, tests=tuple(tests))


def compare_tokens(
    job: str, baseline: str, before: Sequence[int] | None, now: Sequence[int] | None
) -> PairedComparison | None:
    """A changed tokenizer or BOS: a fixed text became other tokens than in the baseline; else None.

    Where one side does not say it, `explain_absent_tokens` has the words, and each number of the job is refused.
    """
    if before is None or now is None or list(before) == list(now):
        return None
    because = (
        f"{job}: the tokenizer or BOS changed since {baseline}: a fixed text became {len(now)} tokens, "
        f"{show_tokens(now)}; it was {show_tokens(before)}"
    )
    outcome = ComparisonOutcome.CHANGED
    return PairedComparison(subject=f"{TOKENS}{job}", outcome=outcome, baseline=baseline, because=because)


def explain_absent_tokens(before: Sequence[int] | None, now: Sequence[int] | None) -> str | None:
    """Why it is not known whether a fixed text became the same tokens; None where both say it, or neither."""
    if (before is None) == (now is None):
        return None
    side = "the baseline" if before is None else "this evaluation"
    return f"{side} does not say which tokens a fixed text became: another tokenizer or BOS would not be seen"


def show_tokens(tokens: Sequence[int]) -> str:
    """The first tokens of a text."""
    return " ".join(str(token) for token in tokens[:12]) + (" ..." if len(tokens) > 12 else "")


def refuse(subject: str, baseline: str, because: str, remedy: str = "") -> PairedComparison:
    """The result where a comparison would mean nothing, with the reason and what to do."""
    message = f"not compared with {baseline}: {because}"
    return PairedComparison(
        subject=subject, outcome=ComparisonOutcome.REFUSED, baseline=baseline, because=message, remedy=remedy
    )
