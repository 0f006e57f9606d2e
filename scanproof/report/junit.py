"""Properties for a JUnit file: of a test, its number; of the suite, the verdict of the run.  Pure."""

from __future__ import annotations

from collections.abc import Iterator

from scanproof.kernels.latency.latency_verdict import Latency
from scanproof.record import Record
from scanproof.report.content import Report

PREFIX = "scanproof_"


def number_properties(record: Record) -> Iterator[tuple[str, str]]:
    """Properties of the test of a number; values in the natural unit.  Absent values are left out."""
    verdict = record.verdict
    allowance = verdict.allowance if verdict else None
    yield from add_prefix(
        outcome=record.outcome,
        because=record.because,
        document=record.document,
        line=record.line,
        model=record.hub_id,
        task=record.task,
        metric=record.metric,
        printed=record.printed,
        unit=record.unit,
        expected=verdict.expected if verdict else None,
        measured=verdict.measured if verdict else None,
        difference=verdict.difference if verdict else None,
        sigmas=verdict.sigmas if verdict else None,
        allowed=allowance.total if allowance else None,
        detectable=allowance.detectable if allowance else None,
        baseline=record.gate.outcome.value if record.gate else None,
        engines="; ".join(verdict.engines.lines()) if verdict and verdict.engines else None,
    )


def latency_properties(latency: Latency) -> Iterator[tuple[str, str]]:
    """Properties of the test of a kernel case; times in seconds per call."""
    yield from add_prefix(
        outcome=latency.outcome,
        because=latency.because,
        operation=latency.op,
        provider=latency.provider or None,
        direction=latency.direction,
        device=latency.device,
        median=latency.timing.median if latency.timing else None,
        baseline=latency.baseline.typical if latency.baseline else None,
        ratio=latency.verdict.ratio if latency.verdict else None,
        share_of_limit=latency.share,
    )


def suite_properties(report: Report) -> Iterator[tuple[str, str]]:
    """Properties of the whole session."""
    verdict = report.verdict
    yield from add_prefix(
        run=report.run.id,
        verdict=verdict.state,
        sentence=verdict.sentence,
        failed=" ".join(verdict.failed),
        new=" ".join(verdict.new),
        fixed=" ".join(verdict.fixed),
        known=" ".join(verdict.known),
        could_not_run=sum(map(len, verdict.not_run.values())),
        last_run=report.last_run,
        last_good_run=report.last_good,
        changed_since_last_good_run="; ".join(
            f"{change.what}: {change.before} -> {change.now}" for change in report.changes
        ),
    )


def add_prefix(**values: object) -> Iterator[tuple[str, str]]:
    """Add the prefix to each name, and turn the values into text; empty values are left out."""
    yield from ((PREFIX + name, str(value)) for name, value in values.items() if value not in (None, ""))
