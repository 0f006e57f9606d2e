"""The engines that score a job's requests, and what one number got from both.  Data only.

`plain` is lm-eval as it is; `shared` runs each distinct token once (`scanproof.scoring`).  The option's third value,
`auto`, is no engine: shared first, plain again where a number fails (`scanproof.evaluation.auto_engine`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from scanproof.numbers.verdict.paired_tests import ComparisonOutcome, PairedComparison

Engine = Literal["plain", "shared"]

DISAGREE = "the engines disagree: a kernel that carries a state over is wrong, or the engine is"


@dataclass(frozen=True, kw_only=True)
class SpotCheck:
    """Of a few requests that plain scored as well, the one whose answers are furthest apart."""

    requests: int
    """That were compared."""
    shared: float | None
    """Its log-likelihood, in nats; None for what is no number."""
    plain: float | None
    allowed: float
    """What rounding may put between them, in nats."""

    @property
    def nats(self) -> float:
        """Between the two; inf where one of them is no number."""
        return math.inf if self.shared is None or self.plain is None else abs(self.shared - self.plain)

    @property
    def differs(self) -> bool:
        """Whether that is more than rounding."""
        return self.nats > self.allowed

    def __str__(self) -> str:
        return (
            f"of {self.requests} requests that plain scored as well, one got {format_score(self.shared)} by shared and "
            f"{format_score(self.plain)} by plain, where {self.allowed:.2g} nats are rounding"
        )


@dataclass(frozen=True, kw_only=True)
class Scoring:
    """What the shared engine ran for one evaluation."""

    plain_tokens: int
    """Tokens that plain would have run."""
    distinct_tokens: int
    """The lower bound: tokens of all distinct prefixes."""
    tokens: int
    """Tokens that were run, padding apart."""
    padding: int
    scored_positions: int
    """Positions that were projected onto the vocabulary."""
    peak_state_bytes: int
    """Most that the kept states held at one time."""
    notes: tuple[str, ...] = ()
    """What the engine said on the way: `out of memory with 64 rows; goes on with 32`."""
    spot: SpotCheck | None = None
    """None where nothing was compared."""


@dataclass(frozen=True, kw_only=True)
class EngineDifference:
    """One document that the engines score differently."""

    task: str
    doc_id: int
    nats: float | None
    """By how much its answer that differs most differs, shared minus plain; None where one of them is no number."""
    shared: float | None
    """What it contributes to the metric; None where that was not kept."""
    plain: float | None

    def __str__(self) -> str:
        moved = "no number on one side" if self.nats is None else f"{self.nats:+.3g} nats, shared minus plain"
        scores = (
            ""
            if self.shared == self.plain
            else f"; {format_score(self.shared)} by shared, {format_score(self.plain)} by plain"
        )
        return f"{self.task} document {self.doc_id}: {moved}{scores}"


def format_score(value: float | None) -> str:
    """A measurement or a score in a sentence."""
    return "nothing" if value is None else f"{value:.6g}"


@dataclass(frozen=True, kw_only=True)
class Engines:
    """A number that plain measured after shared.  Natural units; the verdict is plain's."""

    shared: float | None
    """None where the shared engine broke, or measured nothing usable."""
    plain: float | None
    because: str
    """Why plain measured again."""
    finding: PairedComparison | None = None
    """The two, document by document; None where the shared engine left nothing to compare."""
    apart: tuple[EngineDifference, ...] = ()
    """The documents that differ most, where the engines disagree."""

    @property
    def disagree(self) -> bool:
        """Whether the two differ by more than noise."""
        return self.finding is not None and self.finding.changed

    @property
    def agree(self) -> bool:
        """Whether the two differ by no more than noise; where they cannot be compared they do neither."""
        return self.finding is not None and self.finding.outcome is ComparisonOutcome.SAME

    def lines(self) -> tuple[str, ...]:
        """What both engines said, for the person who has to choose between them."""
        tests = self.finding.tests if self.finding is not None else ()
        refused = [self.finding.because] if self.finding is not None and not tests else []
        return (
            f"shared measured {format_score(self.shared)}, plain {format_score(self.plain)}",
            f"measured again because {self.because}",
            *(f"shared against plain, {test.name}: {test.because}" for test in tests if test.changed),
            *refused,
            *map(str, self.apart),
        )
