"""Gathers what is known of one number: of its run, the last good run, the recorded answers, its document."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar, get_args

from scanproof import files
from scanproof.errors import Kind
from scanproof.history.errors import HistoryError
from scanproof.numbers.expected.reader import Expected
from scanproof.numbers.verdict import baseline_gate
from scanproof.numbers.verdict.outcome import Meaning, Outcome, meaning_of, number_outcome
from scanproof.record import Evaluation, Record, Run
from scanproof.triage import published_environment, read_answers
from scanproof.triage.evidence import Bisected, Broken, Evidence, Substituted
from scanproof.triage.read_answers import Runs

UNREADABLE = (OSError, EOFError, ValueError, KeyError, TypeError, HistoryError)
SUBSTITUTED = "substituted"
"""Folder of a run that holds what scoring again with replaced operations gave."""

T = TypeVar("T")


def failed(run: Run) -> list[Record]:
    """The numbers of a run that ask for triage."""
    return [kept for kept in run.records if number_outcome(kept.outcome).needs_triage]


def of_run(
    run: Run, folder: Path, runs: Runs, kept: Record, expected: Expected, history: str | None = None
) -> Evidence:
    """Evidence of one number of a run on disk."""
    evaluation = next((each for each in run.evaluations if each.job.name == kept.job), None)
    broken = None
    if kept.verdict is None:
        broken = error_of(folder / "evaluations" / f"{kept.job}.error", kept)
    return of_number(run.id, folder, runs, kept, evaluation, broken, expected, history)


def of_number(
    run: str, folder: Path, runs: Runs, kept: Record, evaluation: Evaluation | None, broken: Broken | None,
    expected: Expected, history: str | None = None,
) -> Evidence:  # fmt: skip
    """Evidence of one number: what cannot be read is said in `notes`, and never raised."""
    notes: list[str] = []
    root = runs.root
    value = next((each for each in expected.numbers if each.id == kept.id), None)
    leaves = tuple(baseline_gate.list_tasks(value)) if value is not None else ((kept.task, kept.metric),)
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
        now = read("this run's samples", lambda: read_answers.of_evaluation("this run", made, folder, root, tasks))
        before = read("the good run", lambda: read_answers.last_good(runs, run, made, kept.job, tasks))
        if before is None and history is not None:
            url = history
            before = read("the history", lambda: read_answers.from_history(url, made, root))
        if now is not None and value is not None:
            shipped = read("the recorded answers", lambda: read_answers.read_recorded_side(expected, value, made, now))
    document = next((each for each in expected.documents if each.number == kept.document), None)
    return Evidence(
        run=run,
        number=kept.id,
        outcome=kept.outcome,
        because=kept.because,
        metric=kept.metric,
        leaves=leaves,
        store=str(root),
        margin=expected.constants.perplexity_sd,
        broken=broken,
        engines=kept.verdict.engines if kept.verdict is not None else None,
        now=now,
        before=before,
        recorded=shipped,
        published=published_environment.environment(document) if document is not None else {},
        changed_kernels=evaluation.kernel_changes if evaluation is not None else (),
        substituted=read("the replaced operations", lambda: read_substituted(folder, kept.id)),
        bisected=read("the bisection", lambda: read_bisected(root, kept.id)),
        notes=tuple(notes),
    )


def error_of(path: Path, kept: Record) -> Broken | None:
    """How the job of a number without a verdict ended: the error kept beside the run, else what its record says."""
    if meaning_of(kept.outcome) is not Meaning.BROKEN:
        return None
    try:
        kind, message, words, log = json.loads(path.read_bytes())
        return Broken(kind=kind, message=message, last_words=words, log=log)
    except (OSError, ValueError, TypeError):
        kind, colon, message = kept.because.partition(": ")
        if colon and kind in get_args(Kind):
            return Broken(kind=kind, message=message)
        return Broken(kind="missing" if kept.outcome == Outcome.NOT_RUN else None, message=kept.because)


def substituted_file(folder: Path, number: str) -> Path:
    return folder / SUBSTITUTED / f"{number}.json"


def read_substituted(folder: Path, number: str) -> Substituted | None:
    """What was measured with replaced operations; None where that was not done."""
    path = substituted_file(folder, number)
    return files.from_json(Substituted, path.read_bytes()) if path.is_file() else None


def bisected_file(root: Path, number: str) -> Path:
    """Where a store keeps what the last bisection of a number found."""
    return root / "bisect" / f"{number}.json"


def read_bisected(root: Path, number: str) -> Bisected | None:
    """What the last bisection of a number found; None where there was none."""
    path = bisected_file(root, number)
    return files.from_json(Bisected, path.read_bytes()) if path.is_file() else None
