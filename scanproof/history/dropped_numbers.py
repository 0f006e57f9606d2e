"""Numbers that a session measured and that its run file does not have any more, as what lies beside it shows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from scanproof import files
from scanproof.history.run_failures import name_some
from scanproof.numbers.expected.reader import Expected
from scanproof.numbers.values import PublishedValue
from scanproof.numbers.verdict.remaking import list_terms
from scanproof.record import Evaluation, Run

FOLDER = "evaluations"
"""Folder of a run in which each evaluation was written when it was done, and how each job ended that broke."""


def list_dropped(run: Run, folder: Path, expected: Expected) -> Iterator[str]:
    """What was asked for or measured in a session, and is not in its run file, in words.

    Args:
        run: the run as its file says it.
        folder: folder of the run, with the evaluations beside the file.
        expected: the numbers of now.
    """
    in_run = {evaluation.job.name: evaluation for evaluation in run.evaluations}
    beside: dict[str, Evaluation] = {}
    for path in sorted((folder / FOLDER).glob("*.json")):
        try:
            beside[path.stem] = files.read_record(Evaluation, path)
        except (OSError, ValueError) as error:
            yield f"{path}: cannot be read: {str(error).splitlines()[0]}"
    yield from _list_other_evaluations(in_run, beside, folder)
    yield from _list_unused_tasks(run, expected)
    known = {kept.id for kept in run.records}
    asked = [number for made in (in_run, beside) for evaluation in made.values() for number in evaluation.asked]
    if left := sorted(set(asked) - known):
        yield f"{len(left)} numbers that its jobs were measured for are not in the run: {name_some(left)}"
    jobs = {kept.job for kept in run.records}
    for path in sorted((folder / FOLDER).glob("*.error")):
        if path.stem not in jobs:
            yield f"{path}: the job {path.stem} broke, and the run has no number of it"


def _list_other_evaluations(
    in_run: Mapping[str, Evaluation], beside: Mapping[str, Evaluation], folder: Path
) -> Iterator[str]:
    """The evaluations that are in the run file and not as they were written beside it, or beside it alone."""
    for name, evaluation in beside.items():
        path = folder / FOLDER / f"{name}.json"
        if name not in in_run:
            yield f"{path}: the run does not have this evaluation"
        elif files.to_json(evaluation) != files.to_json(in_run[name]):
            yield f"{path}: it is another evaluation of {name} than the one in the run"
    for name, evaluation in in_run.items():
        # Runs until November 2026 do not say what was asked of them, and may lie without this folder.
        if evaluation.asked and name not in beside:
            yield f"{folder / FOLDER / f'{name}.json'}: it is gone or damaged; it says which numbers were measured"


def _list_unused_tasks(run: Run, expected: Expected) -> Iterator[str]:
    """Tasks that were measured although no number of the run needs them: a session measures what was selected."""
    numbers = {value.id: value for value in expected.numbers}
    kept = [numbers[record.id] for record in run.records if record.id in numbers]
    for evaluation in run.evaluations:
        name = evaluation.job.name
        needed = {task for value in kept if value.job.name == name for task in _list_tasks(value)}
        if unused := sorted(set(evaluation.job.tasks) - needed):
            yield f"{name} measured {name_some(unused)}, and the run has no number of it"


def _list_tasks(value: PublishedValue) -> set[str]:
    """The tasks and groups that lm-eval has to run for a number."""
    return {term.task for term in list_terms(value)} if value.parts and not value.pooled else {value.task}
