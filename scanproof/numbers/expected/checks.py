"""Check what the forms of the expected files cannot: names, ranges, and files against each other."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from typing import get_args

from scanproof.numbers.expected.build import EvaluationFile, file_jobs
from scanproof.numbers.expected.messages import suggest
from scanproof.numbers.expected.problems import FileProblem
from scanproof.numbers.expected.schema import DocumentForm, EvaluationForm, JobForm, ValueForm
from scanproof.numbers.expected.tasks import AVERAGE, TaskInfo
from scanproof.numbers.expected.validation import FormFile, is_sound
from scanproof.numbers.expected.yaml_lines import KeyPath, YamlFile, shorten
from scanproof.numbers.values import UNRECORDED, EvalJob, Origin, Suite, value_id

_RANGES = {"percent": (0.0, 100.0), "fraction": (0.0, 1.0)}
_LONGEST = 20
"""Characters of a printed number; a float has 17 digits."""

Tasks = Mapping[str, TaskInfo] | None
"""None where tasks.yaml has mistakes of its own: then names of tasks are not checked."""


@dataclass(frozen=True)
class DocumentFiles:
    """The files of one document."""

    folder: str
    """Name of its folder."""
    document: FormFile[DocumentForm] | None
    """None where document.yaml cannot be read."""
    evaluations: tuple[EvaluationFile, ...]
    whole: bool
    """Whether every file with numbers could be read."""

    @property
    def count(self) -> int | None:
        """How many numbers the files hold; None where a mistake of their own leaves that open."""
        counts = [len(file.form.values) for file in self.evaluations]
        return sum(counts) if self.whole and all(counts) else None


def check_files(documents: Iterable[DocumentFiles], tasks: Tasks) -> Iterator[FileProblem]:
    """Every problem that the forms do not find, in the sound part of all files."""
    documents = list(documents)
    yield from _check_numbers_of_documents(file.document for file in documents if file.document is not None)
    for files in documents:
        if files.document is not None and is_sound(files.document.form, "assumed"):
            yield from _check_assumed(files.document.yaml, (), files.document.form.assumed, tasks)
        yield from _check_count(files)
        for evaluation in files.evaluations:
            yield from _check_evaluation(evaluation, files.document, tasks)
        yield from _check_jobs(files.evaluations)
    yield from _check_ids(evaluation for files in documents for evaluation in files.evaluations)


def _check_numbers_of_documents(documents: Iterable[FormFile[DocumentForm]]) -> Iterator[FileProblem]:
    first: dict[str, Path] = {}
    for document in documents:
        if is_sound(document.form, "number"):
            number, path = document.form.number, document.yaml.path
            if first.setdefault(number, path) != path:
                message = f'is "{number}", which {first[number]} already is; give each document its own'
                yield document.yaml.problem(("number",), message)


def _check_count(files: DocumentFiles) -> Iterator[FileProblem]:
    """Numbers that were lost, or came, without anybody having said so."""
    document, count = files.document, files.count
    if document is None or count is None or not is_sound(document.form, "numbers"):
        return
    said = document.form.numbers
    if said != count:
        meant = f"write numbers: {count}" if count else "remove the document"
        wanted = f"restore what was lost, or {meant} where that was meant" if count < said else meant
        message = f"is {said}, but the files of this document hold {count}; {wanted}"
        yield document.yaml.problem(("numbers",), message)


def _check_jobs(files: Iterable[EvaluationFile]) -> Iterator[FileProblem]:
    """Different jobs of one document that have the same name."""
    first: dict[str, tuple[EvalJob, Path]] = {}
    reported: set[EvalJob] = set()
    for file in files:
        for job in file_jobs(file.form).values():
            other, path = first.setdefault(job.name, (job, file.yaml.path))
            if job != other and job not in reported:
                reported.add(job)
                differing = [f.name for f in fields(EvalJob) if getattr(job, f.name) != getattr(other, f.name)]
                message = (
                    f"gives a second job named {job.name}, with another {' and '.join(differing)} than {path}; "
                    "let the two files agree, or give their values another num_fewshot or batch_size"
                )
                yield file.yaml.problem(("job",), message)


def _check_ids(files: Iterable[EvaluationFile]) -> Iterator[FileProblem]:
    """Numbers that would be the same test."""
    first: dict[str, str] = {}
    for file in files:
        form = file.form
        if not is_sound(form, "hub_id", "variant"):
            continue
        for position, value in enumerate(form.values):
            if not is_sound(value, "task", "metric", "origin", "suffix"):
                continue
            name = value_id(form.hub_id, value.task, value.metric, value.origin, value.suffix, form.variant)
            line = file.yaml.line(("values", position))
            place = f"{file.yaml.path}:{line}"
            if first.setdefault(name, place) is not place:
                message = (
                    f"is a second {name}, after {first[name]}; remove one of them, or write suffix: and a word that "
                    "tells them apart"
                )
                yield FileProblem(str(file.yaml.path), line, "values", message)


def _check_evaluation(
    file: EvaluationFile, document: FormFile[DocumentForm] | None, tasks: Tasks
) -> Iterator[FileProblem]:
    form, suite = file.form, None
    if document is not None:
        suite = document.form.suite if is_sound(document.form, "suite") else None
        numbered = is_sound(document.form, "number") and is_sound(form, "document")
        if numbered and form.document != document.form.number:
            message = f'is "{form.document}", but document.yaml beside it says "{document.form.number}"; write the same'
            yield file.yaml.problem(("document",), message)
    if is_sound(form, "assumed"):
        yield from _check_assumed(file.yaml, (), form.assumed, tasks)
    for position, value in enumerate(form.values):
        yield from _check_value(file, ("values", position), value, suite, tasks)


def _check_assumed(file: YamlFile, path: KeyPath, assumed: Mapping[str, str], tasks: Tasks) -> Iterator[FileProblem]:
    """Assumptions about fields, tasks or origins that do not exist."""
    for key in assumed:
        field, colon, narrowed_to = key.partition(":")
        entry = (*path, "assumed", key)
        if field not in _fields():
            yield file.problem(entry, f"{field!r} is not a field of a number{suggest(field, _fields())}")
        known = [*(tasks or ()), AVERAGE, *get_args(Origin)]
        if colon and tasks is not None and narrowed_to not in known:
            yield file.problem(entry, f"{narrowed_to!r} is neither a task nor an origin{suggest(narrowed_to, known)}")


@cache
def _fields() -> tuple[str, ...]:
    forms = (JobForm, EvaluationForm, ValueForm)
    return tuple(sorted({name for form in forms for name in form.model_fields}))


def _check_value(
    file: EvaluationFile, path: KeyPath, value: ValueForm, suite: Suite | None, tasks: Tasks
) -> Iterator[FileProblem]:
    yaml, info = file.yaml, None
    if tasks is not None and is_sound(value, "task"):
        info = tasks.get(value.task)
        yield from _check_names(yaml, path, value, tasks)
    if is_sound(value, "origin", "printed", "run"):
        yield from _check_recorded(file, path, value)
    if is_sound(value, "printed", "unit", "metric") and (info is None or value.metric in info.metrics):
        yield from _check_number(yaml, path, value)
    for key in ("printed", "stderr"):
        digits = getattr(value, key)
        if isinstance(digits, str) and len(digits) > _LONGEST:
            message = f"is {shorten(digits)}, {len(digits)} characters; write the digits as printed, {_LONGEST} at most"
            yield yaml.problem((*path, key), message)
    if is_sound(value, "widened", "printed", "unit"):
        yield from _check_widening(yaml, path, value)
    if is_sound(value, "known_discrepancy", "printed", "unit"):
        yield from _check_known(yaml, path, value)
    if suite is not None and is_sound(value, "origin") and (value.origin == "embedded") != (suite == "embedded"):
        message = f"is {value.origin!r} in a document of suite {suite}; embedded goes with embedded"
        yield yaml.problem((*path, "origin"), message)
    if is_sound(value, "assumed"):
        yield from _check_assumed(yaml, path, value.assumed, tasks)


def _check_widening(file: YamlFile, path: KeyPath, value: ValueForm) -> Iterator[FileProblem]:
    """A tolerance so wide that the number could not fail."""
    if value.widened is None or value.printed == UNRECORDED or len(value.printed) > _LONGEST:
        return
    widest = float(value.printed) if value.unit == "raw" else _RANGES[value.unit][1]
    if value.widened.by >= widest:
        message = f"is {value.widened.by:g}: every measured number would be within it; write less than {widest:g}"
        yield file.problem((*path, "widened", "by"), message)


def _check_known(file: YamlFile, path: KeyPath, value: ValueForm) -> Iterator[FileProblem]:
    """A number that is said to come out, and is none, or is coarser than the print: its rounding would be allowed."""
    known, place = value.known_discrepancy, (*path, "known_discrepancy", "comes_out")
    if known is None or len(value.printed) > _LONGEST:
        return
    if value.printed == UNRECORDED:
        yield file.problem((*path, "known_discrepancy"), f"goes with a number that was printed, not {UNRECORDED}")
        return
    low, high = _RANGES.get(value.unit, (1.0, math.inf))
    if len(known.comes_out) > _LONGEST or not low <= float(known.comes_out) <= high:
        message = f"is {shorten(known.comes_out)}, no possible number; write it in the unit of printed"
        yield file.problem(place, message)
    elif count_decimals(known.comes_out) < count_decimals(value.printed):
        message = f"is {known.comes_out}, with fewer digits than {value.printed}; write at least as many"
        yield file.problem(place, message)


def count_decimals(digits: str) -> int:
    """Digits after the point."""
    return len(digits.partition(".")[2])


def _check_names(
    file: YamlFile, path: KeyPath, value: ValueForm, tasks: Mapping[str, TaskInfo]
) -> Iterator[FileProblem]:
    average = value.task == AVERAGE
    if not average:
        yield from _check_task(file, path, value.task, value.metric if is_sound(value, "metric") else None, tasks)
    if not is_sound(value, "parts"):
        return
    if average and not value.parts:
        message = "is missing; write the terms of the average, parts: [{task: ..., metric: ...}, ...]"
        yield file.problem((*path, "parts"), message)
    elif average:
        for position, part in enumerate(value.parts):
            yield from _check_task(file, (*path, "parts", position), part.task, part.metric, tasks)
    elif value.parts:
        yield file.problem((*path, "parts"), f"belong to task: {AVERAGE}; the tasks of a group are in tasks.yaml")


def _check_task(
    file: YamlFile, path: KeyPath, task: str, metric: str | None, tasks: Mapping[str, TaskInfo]
) -> Iterator[FileProblem]:
    info = tasks.get(task)
    if info is None:
        message = f"{task!r} is not a task of tasks.yaml{suggest(task, [*tasks, AVERAGE])}"
        yield file.problem((*path, "task"), message)
    elif metric is not None and metric not in info.metrics:
        message = f"{task} has no {metric!r}; write one of {', '.join(info.metrics)}"
        yield file.problem((*path, "metric"), message)


def _check_recorded(file: EvaluationFile, path: KeyPath, value: ValueForm) -> Iterator[FileProblem]:
    """A number is either printed by somebody, or recorded from a run that the file names."""
    recorded, unrecorded = value.origin == "recorded", value.printed == UNRECORDED
    printed, run = (*path, "printed"), (*path, "run")
    if unrecorded and not recorded:
        yield file.yaml.problem(printed, f"is {UNRECORDED}, which goes with origin: recorded")
    if value.run is None:
        if recorded and not unrecorded:
            message = f"is missing; write printed: {UNRECORDED}: `scanproof record` fills it in"
            yield file.yaml.problem(run, message)
        return
    if not recorded or unrecorded:
        yield file.yaml.problem(run, "goes with a number of origin: recorded")
    if is_sound(file.form, "runs") and value.run not in file.form.runs:
        yield file.yaml.problem(run, f"is {value.run}, which is not among the runs of this file")


def _check_number(file: YamlFile, path: KeyPath, value: ValueForm) -> Iterator[FileProblem]:
    if len(value.printed) > _LONGEST or value.printed == UNRECORDED:
        return
    number = float(value.printed)
    if (value.metric == "perplexity") != (value.unit == "raw"):
        right = "raw" if value.metric == "perplexity" else "percent or fraction"
        yield file.problem((*path, "unit"), f"is {value.unit} for {value.metric}; write {right}")
    elif value.unit == "raw":
        if number < 1:
            yield file.problem((*path, "printed"), f"is {value.printed}; a perplexity is at least 1")
    else:
        low, high = _RANGES[value.unit]
        if not low <= number <= high:
            message = f"is {value.printed}, outside {low:g} to {high:g}; write the unit it was printed in"
            yield file.problem((*path, "printed"), message)
