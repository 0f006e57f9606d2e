"""Reads the sides of a comparison: from a local store, from a history, and the recorded answers."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from scanproof import files, record
from scanproof.evaluation import results, store
from scanproof.history import kept_files, run_failures
from scanproof.history.baseline import Baselines
from scanproof.history.errors import HistoryError
from scanproof.history.recorded_answers import read_recorded_answers, recorded_file
from scanproof.history.samples import from_lines
from scanproof.history.store import open_history
from scanproof.numbers.expected.reader import Expected
from scanproof.numbers.values import PublishedValue
from scanproof.numbers.verdict import rounding
from scanproof.numbers.verdict.outcome import meaning_of
from scanproof.record import Evaluation, Run
from scanproof.triage.evidence import Side, TaskAnswers

LOOKED_AT = 50
"""How many of the newest runs are searched for the last good one."""


def read_evaluation(
    name: str, evaluation: Evaluation, folder: Path, root: Path, tasks: Iterable[str], ceiling: float | None = None
) -> Side:
    """Read an evaluation of the run in `folder`, with those of the requested tasks that it has.

    Raises OSError, ValueError, KeyError or TypeError for logs that cannot be read, and HistoryError for those that are
    not the ones that were measured.
    """
    logs = kept_files.find_folder(folder, evaluation)
    kept_files.require_measured_files(evaluation, logs)
    answers = {task: read_task_answers(evaluation, logs, task) for task in tasks if (logs / f"{task}.jsonl").is_file()}
    return Side(
        name=name,
        job=evaluation.job,
        environment=evaluation.environment,
        parts=read_fingerprint_parts(root, evaluation.key),
        kernels=evaluation.kernels,
        engine=evaluation.engine,
        tasks=answers,
        ceiling=ceiling,
    )


def read_task_answers(evaluation: Evaluation, logs: Path, task: str) -> TaskAnswers:
    """One task's log, with its questions where they were kept."""
    lines = [files.parse_json(line) for line in files.read_text(logs / f"{task}.jsonl").splitlines()]
    asked = logs / f"{task}{store.TEXTS}"
    texts = results.read_texts(asked) if asked.is_file() else None
    measured = next((each for each in evaluation.measurements if each.task == task), None)
    return TaskAnswers(
        samples=from_lines(evaluation.job.name, task, lines),
        rows={line["doc_id"]: line for line in lines},
        texts=texts,
        version=measured.task_version if measured else None,
        num_fewshot=measured.num_fewshot if measured else None,
    )


def read_fingerprint_parts(root: Path, key: str) -> Mapping[str, Any] | None:
    """The parts of a stored evaluation's fingerprint; None where they cannot be read.

    With a section `imported`: the files that its worker had imported beside the packages of the fingerprint.
    """
    folder = store.folder_of(root, key)
    try:
        parts = files.read_json(folder / "fingerprint.json")["parts"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    if not isinstance(parts, dict):
        return None
    with suppress(OSError, ValueError, KeyError, TypeError):
        parts["imported"] = dict(files.read_json(folder / store.IMPORTED)["files"])
    return parts


@dataclass
class Runs:
    """The runs of a store; the newest are kept once they are read, because a session may have many failing numbers."""

    root: Path
    """Folder of the store."""
    known: dict[str, Run | None] = field(default_factory=dict)
    unread: set[str] = field(default_factory=set)
    """Ids of runs that `all_others` could not read."""

    def before(self, run: str) -> Iterator[Run]:
        """The newest runs that are older than this one; unreadable ones are skipped."""
        for name in self.list_before(run)[:LOOKED_AT]:
            earlier = self.read(name)
            if earlier is not None:
                yield earlier

    def all_others(self, run: str, pattern: bytes) -> Iterator[Run]:
        """Every other run whose file has a match of the pattern, the newest first.

        Whether they are older is not asked: ids begin with the time of a clock.  None is kept: a store may hold
        thousands.  Those that cannot be read, or are not as their sessions wrote them, are skipped, and named in
        `unread`.
        """
        wanted = re.compile(pattern)
        for name in sorted((path.name for path in (self.root / "runs").glob("*/") if path.name != run), reverse=True):
            try:
                found = self.read_if_wanted(name, wanted)
            except FileNotFoundError:
                # A session that begins just now has no folder in its own yet.
                if any(self.place(name).parent.glob("*/")):
                    self.unread.add(name)
            except (OSError, ValueError, record.RecordError):
                self.unread.add(name)
            else:
                if found is not None:
                    yield found

    def read_if_wanted(self, name: str, wanted: re.Pattern[bytes]) -> Run | None:
        """A run whose file has a match; None for a sound one without.

        Raises OSError or RecordError: it cannot be read, or is not as its session wrote it.
        """
        content = files.read_bytes(self.place(name))
        is_wanted = wanted.search(content) is not None
        # One that names no digest is of before there was any, or cut off, which only reading it shows.
        if is_wanted or record.DIGEST.search(content) is None:
            run = record.parse_run(content, str(self.place(name)))
            return run if is_wanted else None
        if record.has_other_digest(content):
            raise record.RecordError(f"{name} is damaged")
        return None

    def list_before(self, run: str) -> list[str]:
        """Ids of the runs that are older than this one, the newest first."""
        names = sorted((path.parent.name for path in (self.root / "runs").glob(f"*/{record.RUN_FILE}")), reverse=True)
        return [name for name in names if name < run]

    def place(self, name: str) -> Path:
        """The file of a run."""
        return self.root / "runs" / name / record.RUN_FILE

    def read(self, name: str) -> Run | None:
        """A run; None for one that cannot be read."""
        if name not in self.known:
            with suppress(record.RecordError):
                self.known[name] = record.read_run(self.place(name))
        return self.known.setdefault(name, None)


def find_last_good(runs: Runs, run: str, evaluation: Evaluation | None, job: str, tasks: Iterable[str]) -> Side | None:
    """The newest earlier run of the store in which every number of the job passed.

    Unreadable logs are skipped.
    """
    wanted = list(tasks)
    for earlier in runs.before(run):
        with suppress(OSError, ValueError, KeyError, TypeError, HistoryError):
            side = read_if_good(runs.root, earlier, evaluation, job, wanted)
            if side is not None:
                return side
    return None


def read_if_good(root: Path, run: Run, evaluation: Evaluation | None, job: str, tasks: list[str]) -> Side | None:
    """The job of one run, if all its numbers passed there and its logs hold the tasks; else None."""
    records = [kept for kept in run.records if kept.job == job]
    before = next((each for each in run.evaluations if each.job.name == job), None)
    if before is None or not records or any(meaning_of(kept.outcome).is_bad for kept in records):
        return None
    if any(run_failures.changed_together(run)):
        return None
    if evaluation is not None and before.job.limit != evaluation.job.limit:
        return None
    ceiling = rounding.find_ceiling(before, evaluation) if evaluation is not None else None
    side = read_evaluation(f"the good run {run.id}", before, root / "runs" / run.id, root, tasks, ceiling)
    # The commit is the run's, not the evaluation's.
    side = replace(side, environment={**side.environment, "source": run.environment.get("source")})
    return side if all(task in side.tasks for task in tasks) else None


def read_declared_baseline(url: str, evaluation: Evaluation, root: Path) -> Side | None:
    """The declared baseline of an evaluation; raises HistoryError when there is one that cannot be read."""
    declared = Baselines(open_history(url)).find(evaluation)
    before = declared.evaluation if declared is not None else None
    if declared is None or before is None:
        return None
    return Side(
        name=declared.name.replace("the run", "the baseline run", 1),
        job=before.job,
        environment=before.environment,
        parts=read_fingerprint_parts(root, before.key),
        kernels=before.kernels,
        engine=before.engine,
        tasks={task: TaskAnswers(samples=task_samples) for (_, task), task_samples in declared.samples.items()},
        ceiling=rounding.find_ceiling(before, evaluation),
    )


def read_recorded_side(expected: Expected, value: PublishedValue, evaluation: Evaluation, now: Side) -> Side | None:
    """The float64 answers shipped with a stand-in's values; of a limited run, those of its documents.

    None for other models.  Raises HistoryError when they are not there or cannot be read.
    """
    path = recorded_file(expected, value)
    if path is None:
        return None
    recorded = read_recorded_answers(expected, value, path)
    if evaluation.job.limit is not None:
        recorded = recorded.of_documents({task: set(answers.rows or {}) for task, answers in now.tasks.items()})
    return Side(
        name=recorded.name,
        environment={"packages": {"lm-eval": recorded.harness}},
        tasks={
            task: TaskAnswers(samples=samples, rows=recorded.rows[task])
            for task, samples in recorded.samples.items()
            if task in now.tasks
        },
        ceiling=rounding.find_ceiling(evaluation),
    )
