"""Check that the published numbers are possible and consistent.  Pure; `scanproof audit` prints the findings.

Three things explain a finding: an entry of `findings` in the `document.yaml` of its document, with the same check and
values; `known_discrepancy` or `not_comparable` of one of its values; or, where the finding names a field that settles
it, the reasons that all of its values give for this field under `assumed`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from scanproof.numbers.audit import aggregates, conflicts, granularity, pairs, stderrs
from scanproof.numbers.audit.audit_finding import AuditFinding
from scanproof.numbers.values import PublishedValue

if TYPE_CHECKING:
    from scanproof.numbers.expected.reader import Expected, PublishedDocument

__all__ = ["COLUMNS", "AuditFinding", "audit", "audit_rows"]

COLUMNS = ("check", "document", "line", "values", "message", "explained")


def audit(expected: Expected) -> tuple[AuditFinding, ...]:
    """All findings in the published numbers, and one more for each explanation without a finding."""
    published = [value for value in expected.values if value.origin not in ("embedded", "recorded")]
    by_id = {value.id: value for value in published}
    entries = [(document, entry) for document in expected.documents for entry in document.findings]
    findings = []
    used: set[int] = set()
    for finding in _run_checks(published, expected):
        matching = [number for number, entry in enumerate(entries) if _is_explained_by(entry, finding)]
        used.update(matching)
        written = entries[matching[0]][1]["reason"] if matching else None
        findings.append(replace(finding, explained=written or _reason_of_values(finding, by_id)))
    stale = (
        _unused_explanation(document, entry) for number, (document, entry) in enumerate(entries) if number not in used
    )
    return (*findings, *stale)


def audit_rows(findings: Iterable[AuditFinding]) -> list[dict[str, Any]]:
    """The findings as rows for a table, JSON or CSV; those without an explanation come first."""
    ordered = sorted(findings, key=lambda finding: finding.explained is not None)
    return [
        {
            "check": finding.check,
            "document": finding.document,
            "line": finding.line,
            "values": " ".join(finding.values),
            "message": finding.message,
            "explained": finding.explained,
            "numbers": finding.numbers,
        }
        for finding in ordered
    ]


def _run_checks(values: Sequence[PublishedValue], expected: Expected) -> Iterator[AuditFinding]:
    yield from granularity.check(values)
    yield from stderrs.check(values)
    yield from aggregates.check(values)
    yield from pairs.check(values, expected.constants)
    yield from conflicts.check(values, expected.constants)


def _is_explained_by(entry: tuple[PublishedDocument, Any], finding: AuditFinding) -> bool:
    document, written = entry
    same_values = set(written["values"]) == set(finding.values)
    return document.number == finding.document and written["check"] == finding.check and same_values


def _reason_of_values(finding: AuditFinding, by_id: dict[str, PublishedValue]) -> str | None:
    """The explanation that the values themselves give; None where they give none."""
    values = [by_id[name] for name in finding.values]
    for value in values:
        if value.known_discrepancy or value.not_comparable:
            return value.known_discrepancy.reason if value.known_discrepancy else value.not_comparable
    reasons = [dict(value.assumed).get(finding.settled_by) for value in values]
    return reasons[0] if all(reasons) else None


def _unused_explanation(document: PublishedDocument, entry: Any) -> AuditFinding:
    return AuditFinding(
        check=entry["check"],
        values=tuple(entry["values"]),
        document=document.number,
        line=0,
        message=f"explained in {document.folder}/document.yaml, but the audit finds no such thing; "
        "correct or remove the entry",
    )
