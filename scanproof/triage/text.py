"""Findings as people read them.  Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any

from scanproof.printable import make_printable
from scanproof.triage.evidence import Evidence
from scanproof.triage.finding import Finding, FindingState

MESSAGE_LINES = 8
"""Lines of evidence in the message of a failing test."""


def report(evidence: Evidence, findings: Sequence[Finding]) -> str:
    """One number's findings in full; what is ruled out in one line each."""
    lines = [f"{evidence.number} in {evidence.run}: {evidence.outcome}", f"  {evidence.because.splitlines()[0]}", ""]
    for place, finding in enumerate((each for each in findings if each.state is not FindingState.RULED_OUT), 1):
        lines += [f"{place}. {head(finding)}", *body(finding, "   "), ""]
    out = [each for each in findings if each.state is FindingState.RULED_OUT]
    lines += [f"ruled out: {each.kind.value}: {each.title}" for each in out]
    lines += [f"not looked at: {note}" for note in evidence.notes]
    return make_printable("\n".join(lines).rstrip(), lines=True)


def message(findings: Sequence[Finding]) -> list[str]:
    """What a failing test says: the first finding, and what else is shown or suspected by its title alone."""
    first, *rest = findings
    lines = [f"  triage      {head(first)}"]
    kept = first.evidence[:MESSAGE_LINES]
    lines += [f"                {line}" for line in kept]
    if len(first.evidence) > len(kept):
        lines.append(f"                and {len(first.evidence) - len(kept)} more lines: scanproof triage")
    lines += [
        f"              also {head(finding)}"
        for finding in rest
        if finding.state in (FindingState.CAUSE, FindingState.SUSPECT)
    ]
    command = first.next
    return [make_printable(line, lines=True) for line in (*lines, *([f"  next        {command}"] if command else []))]


def head(finding: Finding) -> str:
    """FindingKind, strength and title."""
    said = "" if finding.state is FindingState.CAUSE else f" ({finding.state.value})"
    return f"{finding.kind.value}{said}: {finding.title}"


def body(finding: Finding, indent: str) -> list[str]:
    lines = [f"{indent}{line}" for line in finding.evidence]
    return [*lines, *([f"{indent}next: {finding.next}"] if finding.next else [])]


def rows(evidence: Evidence, findings: Iterable[Finding]) -> list[dict[str, Any]]:
    """Findings as JSON or CSV has them."""
    return [
        {
            "run": evidence.run, "number": evidence.number, "outcome": evidence.outcome, "place": place,
            **asdict(finding), "kind": finding.kind.value, "state": finding.state.value,
            "evidence": list(finding.evidence),
        }
        for place, finding in enumerate(findings, 1)
    ]  # fmt: skip
