"""The report as properties of a JUnit file: of a test what its number is, of the suite the verdict.  Pure."""

from __future__ import annotations

from collections.abc import Iterator

from scanproof.kernels.latency.latency_verdict import Latency
from scanproof.record import Record
from scanproof.report.content import Report

PREFIX = "scanproof_"


def of_number(kept: Record) -> Iterator[tuple[str, str]]:
    """Properties of the test of a number; sizes in the natural unit.  What is absent is left out."""
    verdict = kept.verdict
    allowance = verdict.allowance if verdict else None
    yield from prefixed(
        outcome=kept.outcome,
        because=kept.because,
        document=kept.document,
        line=kept.line,
        model=kept.hub_id,
        task=kept.task,
        metric=kept.metric,
        printed=kept.printed,
        unit=kept.unit,
        expected=verdict.expected if verdict else None,
        measured=verdict.measured if verdict else None,
        difference=verdict.difference if verdict else None,
        sigmas=verdict.sigmas if verdict else None,
        allowed=allowance.total if allowance else None,
        detectable=allowance.detectable if allowance else None,
        baseline=kept.gate.outcome.value if kept.gate else None,
        engines="; ".join(verdict.engines.lines()) if verdict and verdict.engines else None,
    )


def of_latency(found: Latency) -> Iterator[tuple[str, str]]:
    """Properties of the test of a kernel case; seconds per call."""
    yield from prefixed(
        outcome=found.outcome,
        because=found.because,
        operation=found.op,
        direction=found.direction,
        device=found.device,
        median=found.timing.median if found.timing else None,
        baseline=found.baseline.typical if found.baseline else None,
        ratio=found.verdict.ratio if found.verdict else None,
        share_of_limit=found.share,
    )


def of_suite(report: Report) -> Iterator[tuple[str, str]]:
    """Properties of the whole session."""
    verdict = report.verdict
    yield from prefixed(
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
        changed_since_last_good_run="; ".join(f"{c.what}: {c.before} -> {c.now}" for c in report.changes),
    )


def prefixed(**values: object) -> Iterator[tuple[str, str]]:
    """Names with the prefix, values as text."""
    yield from ((PREFIX + name, str(value)) for name, value in values.items() if value not in (None, ""))
