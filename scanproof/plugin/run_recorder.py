"""Collects the records of a session in the process that owns its files, and writes the run."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from scanproof import files, record
from scanproof.kernels.latency.latency_verdict import Latency
from scanproof.numbers.values import PublishedValue
from scanproof.numbers.verdict.paired_tests import PairedComparison
from scanproof.numbers.verdict.tolerance import Verdict
from scanproof.plugin.strict_session import Unkept
from scanproof.record import Evaluation, Record, Run

WRITE_EVERY_SECONDS = 1.0


def new_run_id(started: datetime) -> str:
    """Sortable by time, and unique also where machines share a store: `20261120T164500Z-1b9c04d2`."""
    return f"{started.strftime('%Y%m%dT%H%M%SZ')}-{uuid.uuid4().hex[:8]}"


def read_start(run_id: str) -> datetime:
    """When a session began, to the second: what `new_run_id` made its name of."""
    return datetime.strptime(run_id.partition("-")[0], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)


def utc_now() -> datetime:
    return datetime.now(UTC)


def make_record(value: PublishedValue, nodeid: str, **fields: Any) -> Record:
    """A record of `value` with the outcome given in `fields`."""
    return Record(
        id=value.id,
        nodeid=nodeid,
        document=value.document,
        line=value.line,
        model=value.model,
        hub_id=value.hub_id,
        task=value.task,
        metric=value.metric,
        origin=value.origin,
        printed=value.printed,
        unit=value.unit,
        job=value.job.name,
        widened=value.widened.reason if value.widened else None,
        **fields,
    )


def judged_record(
    value: PublishedValue, nodeid: str, evaluation: Evaluation, verdict: Verdict, gate: PairedComparison | None = None
) -> Record:
    """A record of what all gates found."""
    return make_record(
        value,
        nodeid,
        outcome=verdict.outcome.value,
        because=verdict.because,
        verdict=verdict,
        evaluation_key=evaluation.key,
        reused=evaluation.reused,
        samples=evaluation.samples,
        command=evaluation.command,
        gate=gate,
    )


@dataclass
class Recorder:
    """Collects the records of a session in the process that owns its files, and writes the run."""

    folder: Path
    """Folder of all runs."""
    run: Run
    records: dict[str, Record] = field(default_factory=dict)
    latencies: dict[str, Latency] = field(default_factory=dict)
    pending: int = 0
    """Latency tests that were selected and not reached."""
    failed: set[str] = field(default_factory=set)
    """As `Run.failed_tests`."""
    written: float = 0.0

    def add(self, new: Record | Latency) -> None:
        """Keep a record (one per test; a later one replaces it) and write the run, at most once a second."""
        if isinstance(new, Latency):
            self.latencies[new.nodeid] = new
        else:
            self.records[new.nodeid] = new
        if time.monotonic() - self.written >= WRITE_EVERY_SECONDS:
            self.write(finished=False)

    def write(self, *, finished: bool) -> Path:
        """Write the run as it stands; returns the file.  A session that was stopped half-way is never finished."""
        evaluations = [
            files.from_json(Evaluation, path.read_bytes())
            for path in sorted((self.folder / self.run.id / "evaluations").glob("*.json"))
        ]
        self.run = replace(
            self.run,
            finished=utc_now().isoformat(timespec="seconds") if finished else None,
            records=tuple(self.records.values()),
            evaluations=tuple(evaluations),
            latencies=tuple(self.latencies.values()),
            failed_tests=tuple(sorted(self.failed)),
        )
        path = record.write_run(self.folder, self.run)
        self.written = time.monotonic()
        return path

    def add_joint(self, joint: tuple[PairedComparison, ...]) -> None:
        """Keep what is found in many numbers together; the next write puts it on disk."""
        self.run = replace(self.run, joint=joint)

    def add_unkept(self, unkept: Iterable[Unkept]) -> None:
        """Keep why the session is not green where no test that failed says so; the next write puts it on disk."""
        told = [each.because for each in unkept if not each.nodeids or not each.nodeids <= self.failed]
        self.run = replace(self.run, unkept=tuple(dict.fromkeys(told)))

    def add_exit_code(self, code: int) -> None:
        """Keep what the session decided to end with; the next write puts it on disk."""
        self.run = replace(self.run, exit_code=code)

    @property
    def path(self) -> Path:
        """The run's file."""
        return self.folder / self.run.id / record.RUN_FILE

    def jobs(self) -> tuple[int, int]:
        """Evaluations that ran in this session, and those that were reused."""
        reused = [evaluation.reused for evaluation in self.run.evaluations]
        return reused.count(False), reused.count(True)

    def outcomes(self) -> dict[str, int]:
        """How many numbers ended in each outcome."""
        counts: dict[str, int] = {}
        for kept in self.records.values():
            counts[kept.outcome] = counts.get(kept.outcome, 0) + 1
        return counts
