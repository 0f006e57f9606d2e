"""The engines that score the requests of a job, and the results of both for one number.  Data only.

`plain` is lm-eval unchanged.  `shared` runs each distinct token once (`scanproof.scoring`).  The third value of the
option, `auto`, is not an engine: it runs shared, and plain again where a number fails
(`scanproof.evaluation.auto_engine`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from scanproof.numbers.verdict.paired_tests import ComparisonOutcome, PairedComparison

EngineName = Literal["plain", "shared"]

DISAGREE = "the engines disagree: a kernel that carries a state over is wrong, or the engine is"
FAR = 8.0
"""A spot-checked request alone shows that the engines disagree where it is this many times further off than rounding
can explain.  Nearer ones are judged with all documents, which plain answers again."""


@dataclass(frozen=True, kw_only=True)
class SpotCheck:
    """The spot-checked request on which the engines differ most."""

    requests: int
    """Number of requests that were scored by both engines."""
    shared: float | None
    """Log-likelihood from the shared engine, in nats; None where it is not a number."""
    plain: float | None
    allowed: float
    """The largest difference that rounding can explain, in nats."""

    @property
    def nats(self) -> float:
        """Difference between the engines in nats: inf where one of the two is not a number, 0 where both are none."""
        if self.shared is None or self.plain is None:
            return 0.0 if self.shared is self.plain else math.inf
        return abs(self.shared - self.plain)

    @property
    def differs(self) -> bool:
        """Whether the difference is more than rounding."""
        return self.nats > self.allowed

    @property
    def is_far_off(self) -> bool:
        """Whether the difference is far more than rounding, so that no other document can excuse it."""
        return self.nats > FAR * self.allowed

    def __str__(self) -> str:
        return (
            f"of {self.requests} requests that plain scored as well, one got {format_score(self.shared)} by shared and "
            f"{format_score(self.plain)} by plain, where {self.allowed:.2g} nats are rounding"
        )


NO_SPOT = "no memory to score some requests by plain as well"


@dataclass(frozen=True, kw_only=True)
class Scoring:
    """What the shared engine computed in one evaluation."""

    plain_tokens: int
    """Tokens that the plain engine would have run."""
    distinct_tokens: int
    """Tokens of all distinct prefixes: the lower bound."""
    tokens: int
    """Tokens that were run, without padding."""
    padding: int
    scored_positions: int
    """Positions that were projected onto the vocabulary."""
    peak_state_bytes: int
    """Largest size of the kept states at any time."""
    notes: tuple[str, ...] = ()
    """Events during the run: `out of memory with 64 rows; goes on with 32`."""
    spot: SpotCheck | None = None
    """None where no request was scored by both engines."""

    @property
    def lacks_spot(self) -> bool:
        """Whether memory did not suffice to score some requests by plain as well."""
        return NO_SPOT in self.notes


@dataclass(frozen=True, kw_only=True)
class EngineDifference:
    """One document that the engines score differently."""

    task: str
    doc_id: int
    nats: float | None
    """Largest difference of one of its answers, shared minus plain; None where one of the two is not a number."""
    shared: float | None
    """Its contribution to the metric by the shared engine; None where it was not kept."""
    plain: float | None

    def __str__(self) -> str:
        moved = "no number on one side" if self.nats is None else f"{self.nats:+.3g} nats, shared minus plain"
        scores = (
            ""
            if self.shared == self.plain
            else f"; {format_score(self.shared)} by shared, {format_score(self.plain)} by plain"
        )
        return f"{self.task} document {self.doc_id}: {moved}{scores}"


def format_score(value: float | None, digits: int = 6) -> str:
    """A measurement or a score as text."""
    return "nothing" if value is None else f"{value:.{digits}g}"


@dataclass(frozen=True, kw_only=True)
class Engines:
    """The results of both engines for one number, in natural units.  The verdict is that of plain."""

    shared: float | None
    """None where the shared engine failed, or measured nothing usable."""
    plain: float | None
    because: str
    """Why the number was measured again by plain."""
    finding: PairedComparison | None = None
    """The comparison of both, document by document; None where the shared engine left nothing to compare."""
    apart: tuple[EngineDifference, ...] = ()
    """The documents that differ most, when the engines disagree."""
    broke: str | None = None
    """The error of the shared engine, where its code or a kernel that it called broke."""
    spot: SpotCheck | None = None
    """The request that both engines scored in the shared one's evaluation."""

    @property
    def disagree(self) -> bool:
        """Whether the two differ by more than noise."""
        return (self.finding is not None and self.finding.changed) or self.is_spot_far_off

    @property
    def agree(self) -> bool:
        """Whether the two differ by no more than noise; False, like `disagree`, where they cannot be compared."""
        return self.finding is not None and self.finding.outcome is ComparisonOutcome.SAME and not self.disagree

    @property
    def is_spot_far_off(self) -> bool:
        """Whether one request shows by itself that the engines disagree."""
        return self.spot is not None and self.spot.is_far_off

    @property
    def why_unknown(self) -> str | None:
        """Why it is not known whether they agree, in words; None where it is, or plain alone has to measure."""
        if self.broke is not None:
            return f"the shared engine broke, and plain did not: {self.broke}"
        if self.finding is not None and self.finding.outcome is ComparisonOutcome.REFUSED and not self.disagree:
            return f"the engines cannot be compared: {self.finding.because}"
        return None

    def lines(self) -> tuple[str, ...]:
        """Both results and their differences, as lines for a message."""
        tests = self.finding.tests if self.finding is not None else ()
        refused = [self.finding.because] if self.finding is not None and not tests else []
        spot = [str(self.spot)] if self.is_spot_far_off and str(self.spot) != self.because else []
        return (
            f"shared measured {format_score(self.shared)}, plain {format_score(self.plain)}",
            f"measured again because {self.because}",
            *(f"shared against plain, {test.name}: {test.because}" for test in tests if test.changed),
            *refused,
            *spot,
            *map(str, self.apart),
        )
