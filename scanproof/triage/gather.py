"""Gathers the evidence on one number: its run, the last good run, the recorded answers, its document."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar, get_args

from scanproof import files
from scanproof.errors import FailureKind
from scanproof.history.errors import HistoryError
from scanproof.numbers.expected.reader import Expected
from scanproof.numbers.verdict import baseline_gate
from scanproof.numbers.verdict.outcome import Meaning, Outcome, meaning_of, number_outcome
from scanproof.numbers.verdict.tolerance import Verdict
from scanproof.record import Evaluation, Record, Run
from scanproof.triage import published_environment, read_answers
from scanproof.triage.evidence import NO_EVIDENCE, Bisected, Broken, Evidence, Substituted
from scanproof.triage.read_answers import Runs

UNREADABLE = (OSError, ValueError, KeyError, TypeError, HistoryError)
SUBSTITUTED = "substituted"
"""Folder of a run that holds what scoring again with replaced operations gave."""

T = TypeVar("T")


def list_failed(run: Run) -> list[Record]:
    """The numbers of a run that need triage."""
    return [record for record in run.records if number_outcome(record.outcome).needs_triage]


def gather_from_run(
    run: Run, folder: Path, runs: Runs, record: Record, expected: Expected, history: str | None = None
) -> Evidence:
    """Evidence of one number of a run on disk."""
    evaluation = next((each for each in run.evaluations if each.job.name == record.job), None)
    broken = None
    if record.verdict is None:
        broken = find_error(folder / "evaluations" / f"{record.job}.error", record)
    return gather_evidence(run.id, folder, runs, record, evaluation, broken, expected, history)


def gather_evidence(
    run: str, folder: Path, runs: Runs, record: Record, evaluation: Evaluation | None, broken: Broken | None,
    expected: Expected, history: str | None = None,
) -> Evidence:  # fmt: skip
    """Evidence of one number; what cannot be read is named in `notes`, no error is raised."""
    notes: list[str] = []
    root = runs.root
    value = next((each for each in expected.numbers if each.id == record.id), None)
    leaves = tuple(baseline_gate.list_tasks(value)) if value is not None else ((record.task, record.metric),)
    tasks = list(dict.fromkeys(task for task, _ in leaves))

    def read(what: str, call: Callable[[], T]) -> T | None:
        try:
            return call()
        except UNREADABLE as error:
            notes.append(f"{what}: {error}")
            return None

    now = before = shipped = None
    if evaluation is not None:
        made: Evaluation = evaluation
        now = read("this run's samples", lambda: read_answers.read_evaluation("this run", made, folder, root, tasks))
        before = read("the good run", lambda: read_answers.find_last_good(runs, run, made, record.job, tasks))
        if before is None and history is not None:
            url = history
            before = read("the history", lambda: read_answers.read_declared_baseline(url, made, root))
        if now is not None and value is not None:
            shipped = read("the recorded answers", lambda: read_answers.read_recorded_side(expected, value, made, now))
    document = next((each for each in expected.documents if each.number == record.document), None)
    return Evidence(
        run=run,
        number=record.id,
        outcome=record.outcome,
        because=record.because,
        metric=record.metric,
        leaves=leaves,
        store=str(root),
        margin=expected.constants.perplexity_sd,
        broken=broken,
        engines=record.verdict.engines if record.verdict is not None else None,
        now=now,
        before=before,
        recorded=shipped,
        published=published_environment.environment(document) if document is not None else {},
        changed_kernels=evaluation.kernel_changes if evaluation is not None else (),
        substituted=read("the replaced operations", lambda: read_substituted(folder, record.id)),
        bisected=read("the bisection", lambda: read_bisected(root, record.id)),
        notes=tuple(notes),
    )


def find_error(path: Path, record: Record) -> Broken | None:
    """How the job of a number without a verdict ended: the error kept beside the run, else what its record says."""
    if meaning_of(record.outcome) is not Meaning.BROKEN:
        return None
    if is_of_engines(record.verdict):
        return None
    try:
        kind, message, words, log = files.read_json(path)
        return Broken(kind=kind, message=message, last_words=words, log=log)
    except (OSError, ValueError, TypeError):
        kind, colon, message = record.because.partition(": ")
        if colon and kind in get_args(FailureKind):
            return Broken(kind=kind, message=message)
        if record.verdict is not None:
            return Broken(kind=NO_EVIDENCE, message=record.because)
        return Broken(kind="missing" if record.outcome == Outcome.NOT_RUN else None, message=record.because)


def is_of_engines(verdict: Verdict | None) -> bool:
    """Whether a number was measured, and is an error for want of a comparison of both engines alone."""
    if verdict is None or verdict.measured is None or verdict.engines is None:
        return False
    return verdict.not_made_again is None and verdict.engines.why_unknown is not None


def substituted_file(folder: Path, number: str) -> Path:
    return folder / SUBSTITUTED / f"{number}.json"


def read_substituted(folder: Path, number: str) -> Substituted | None:
    """What was measured with replaced operations; None where that was not done."""
    path = substituted_file(folder, number)
    return files.read_record(Substituted, path) if path.is_file() else None


def bisected_file(root: Path, number: str) -> Path:
    """Where a store keeps what the last bisection of a number found."""
    return root / "bisect" / f"{number}.json"


def read_bisected(root: Path, number: str) -> Bisected | None:
    """What the last bisection of a number found; None where there was none."""
    path = bisected_file(root, number)
    return files.read_record(Bisected, path) if path.is_file() else None
