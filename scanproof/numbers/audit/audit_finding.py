"""The findings of an audit, and what several checks share."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from scanproof.numbers.audit import rounding
from scanproof.numbers.values import PublishedValue

Check = Literal["granularity", "stderr", "aggregate", "pair", "conflict"]


@dataclass(frozen=True, kw_only=True)
class AuditFinding:
    """Something impossible or inconsistent in the published numbers."""

    check: Check
    values: tuple[str, ...]
    """Ids of the values concerned."""
    document: str
    """Number of the document that has to explain it."""
    line: int
    """Line of the first value in that document."""
    message: str
    numbers: dict[str, float | str] = field(default_factory=dict)
    """The figures behind the message."""
    explained: str | None = None
    """The reason written in the expected files, or None."""
    settled_by: str = ""
    """The field of a value whose entry under `assumed` explains the finding; empty when there is no such field."""


def possible(value: PublishedValue) -> tuple[float, float]:
    """Lowest and highest number, in natural units, that is printed as `value`.  A share of N documents is k / N."""
    if value.counts_documents and value.documents is not None:
        counts = rounding.nearest_counts(value, value.documents)
        return counts[0] / value.documents, counts[-1] / value.documents
    return rounding.interval(value)


def last_part(name: str) -> str:
    """A model's own name: `state-spaces/mamba-1.4B` -> `mamba-1.4b`."""
    return name.rsplit("/", 1)[-1].lower()


def points(value: PublishedValue) -> float:
    """The number in points of a percentage."""
    return 100 * value.expected
