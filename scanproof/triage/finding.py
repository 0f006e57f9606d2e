"""The findings of triage, and their order."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum


class FindingState(StrEnum):
    """How strong the evidence of a finding is."""

    CAUSE = "cause"
    """Measurements show that this explains the number, or that the number cannot be judged."""
    SUSPECT = "suspect"
    """It differs and can move the number; no measurement shows yet that it did."""
    UNKNOWN = "unknown"
    """It differs, and it is not known whether that matters; or it could not be examined."""
    RULED_OUT = "ruled out"
    """Examined, and the same."""


class FindingKind(StrEnum):
    """The subject of a finding, cheapest evidence first."""

    BROKEN = "broken run"
    ENVIRONMENT = "environment"
    TASK = "task"
    FALLBACK = "fallback"
    ENGINES = "engines"
    NOISE = "noise"
    NUMERICS = "numerics"
    KERNEL = "kernel"
    PACKAGE = "package"
    UNEXPLAINED = "unexplained"
    NOTHING = "nothing to explain"


RANK = {kind: place for place, kind in enumerate(FindingKind)}
STRENGTH = {state: place for place, state in enumerate(FindingState)}


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing that triage examined."""

    kind: FindingKind
    state: FindingState
    title: str
    """One line for the person who reads it."""
    evidence: tuple[str, ...] = ()
    next: str | None = None
    """The command to run now; None where there is nothing left to run."""


def make_finding(
    kind: FindingKind, state: FindingState, title: str, evidence: Iterable[str] = (), command: str | None = None
) -> Finding:
    """A finding; `command` is what the reader runs next."""
    return Finding(kind=kind, state=state, title=title, evidence=tuple(evidence), next=command)


def ordered(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """Sort findings: the strongest first, among equally strong ones the cheapest evidence first.

    A kernel or a package that was named by running the job again is a narrower cause than `the answers moved`, and
    comes before it.
    """
    listed = list(findings)
    named = any(
        finding.kind in (FindingKind.KERNEL, FindingKind.PACKAGE) and finding.state is FindingState.CAUSE
        for finding in listed
    )

    def place(finding: Finding) -> tuple[int, int, int]:
        broader = named and finding.kind in (FindingKind.NOISE, FindingKind.NUMERICS)
        return STRENGTH[finding.state], int(broader), RANK[finding.kind]

    return tuple(sorted(listed, key=place))
