"""One pytest session: each job runs once, each number gets a record, the run is written as it grows."""

from __future__ import annotations

import json
import os
import shutil
import time
import uuid
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from filelock import FileLock

from scanproof import derive, proof, record, tolerance
from scanproof.evaluation import EvaluationError
from scanproof.latency import Latency
from scanproof.paired import Finding
from scanproof.record import Evaluation, Record, Run
from scanproof.tolerance import Verdict
from scanproof.values import EvalJob, PublishedValue

WRITE_EVERY_SECONDS = 1.0

Evaluate = Callable[[EvalJob], Evaluation]


def new_run_id(started: datetime) -> str:
    """Sortable by time, and unique also where machines share a store: `20261120T164500Z-1b9c04d2`."""
    return f"{started.strftime('%Y%m%dT%H%M%SZ')}-{uuid.uuid4().hex[:8]}"


def utc_now() -> datetime:
    return datetime.now(UTC)


@dataclass
class Evaluator:
    """Runs each job at most once in this process and remembers how it ended."""

    evaluate: Evaluate
    folder: Path
    """Folder of this session's run; finished evaluations are written below it at once."""
    tasks_selected: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Job name to the tasks that the selected tests need; a job not named runs all its tasks."""
    finished: dict[str, Evaluation | EvaluationError] = field(default_factory=dict)

    def select(self, values: Iterable[PublishedValue]) -> None:
        """Narrow each job to the tasks of these values, so that `-k` pays only for what it selects."""
        needed: dict[str, dict[str, frozenset[str]]] = {}
        for value in values:
            tasks = needed.setdefault(value.job.name, {})
            for name, leaves in tasks_of(value):
                tasks[name] = tasks.get(name, frozenset()) | leaves
        self.tasks_selected = {name: covering(tasks) for name, tasks in needed.items()}

    def narrowed(self, job: EvalJob) -> EvalJob:
        """The job with the tasks that were selected."""
        return replace(job, tasks=self.tasks_selected.get(job.name, job.tasks))

    def __call__(self, job: EvalJob) -> Evaluation:
        """What the job measured; raises the same EvaluationError for each number of a job that failed."""
        if job.name not in self.finished:
            self.finished[job.name] = self.once(job)
        outcome = self.finished[job.name]
        if isinstance(outcome, EvaluationError):
            raise outcome
        return outcome

    def once(self, job: EvalJob) -> Evaluation | EvaluationError:
        """Evaluate, unless another process of this session has: how it ended lies in the run's folder."""
        path = self.folder / "evaluations" / f"{job.name}.json"
        broken = path.with_suffix(".error")
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_suffix(".lock")):
            if path.is_file():
                return record.from_json(Evaluation, path.read_bytes())
            if broken.is_file():
                return EvaluationError(*json.loads(broken.read_bytes()))
            try:
                finished = self.evaluate(self.narrowed(job))
                proof.require(job, finished)
                evaluation = self.with_samples(finished)
                with record.atomic(path) as temporary:
                    temporary.write_bytes(record.to_json(evaluation))
            except EvaluationError as error:
                return keep_error(broken, error)
            except Exception as error:
                # Whoever implements the hook may raise anything; a job that broke is an error of its numbers only.
                return keep_error(broken, EvaluationError("worker", f"{type(error).__name__}: {error}"))
            return evaluation

    def with_samples(self, evaluation: Evaluation) -> Evaluation:
        """The evaluation with its samples placed beside the run."""
        samples = self.placed(evaluation.samples, "samples", evaluation.job.name)
        replaced = evaluation.replaced
        if replaced is not None and replaced.samples is not None:
            replaced = replace(replaced, samples=self.placed(replaced.samples, "replaced", evaluation.job.name))
        return replace(evaluation, samples=samples, replaced=replaced)

    def placed(self, source: str, kind: str, job: str) -> str:
        """Put logs into a folder of the run; returns the folder."""
        target = self.folder / kind / job
        if Path(source).is_dir() and not target.exists():
            with record.atomic(target) as temporary:
                shutil.copytree(source, temporary, copy_function=link_or_copy)
        return str(target)


def keep_error(path: Path, error: EvaluationError) -> EvaluationError:
    """Leave an error for the other processes of this session, if that can be written; returns it."""
    with suppress(OSError), record.atomic(path) as temporary:
        temporary.write_text(json.dumps([error.kind, error.message, error.last_words, error.log]))
    return error


def tasks_of(value: PublishedValue) -> list[tuple[str, frozenset[str]]]:
    """The tasks that have to run for a value, each with the single tasks inside it."""
    if value.parts and not value.pooled:
        return [(part.task, frozenset({part.task})) for part in value.parts]
    return [(value.task, frozenset(part.task for part in value.parts) or frozenset({value.task}))]


def covering(tasks: dict[str, frozenset[str]]) -> tuple[str, ...]:
    """The tasks without those that lie inside a group among them, sorted."""
    kept: list[str] = []
    covered: frozenset[str] = frozenset()
    for name in sorted(tasks, key=lambda name: (-len(tasks[name]), name)):
        if not tasks[name] <= covered:
            kept.append(name)
            covered |= tasks[name]
    return tuple(sorted(kept))


def link_or_copy(source: str, target: str) -> None:
    """A hard link where the file system can, else a copy: samples of a night are large."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


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


def judge(value: PublishedValue, evaluation: Evaluation, constants: tolerance.Constants) -> Verdict:
    """Compare one number with what its evaluation measured; raises derive.DeriveError."""
    measurement = derive.measured(value, evaluation.measurements)
    return tolerance.compare(
        value,
        measurement.value,
        constants,
        documents=measurement.n_samples,
        limited=evaluation.job.limit is not None,
    )


def judged_record(
    value: PublishedValue, nodeid: str, evaluation: Evaluation, verdict: Verdict, gate: Finding | None = None
) -> Record:
    """A record of what both gates found."""
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
            record.from_json(Evaluation, path.read_bytes())
            for path in sorted((self.folder / self.run.id / "evaluations").glob("*.json"))
        ]
        self.run = replace(
            self.run,
            finished=utc_now().isoformat(timespec="seconds") if finished else None,
            records=tuple(self.records.values()),
            evaluations=tuple(evaluations),
            latencies=tuple(self.latencies.values()),
        )
        path = record.write_run(self.folder, self.run)
        self.written = time.monotonic()
        return path

    def add_joint(self, joint: tuple[Finding, ...]) -> None:
        """Keep what is found in many numbers together; the next write puts it on disk."""
        self.run = replace(self.run, joint=joint)

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
