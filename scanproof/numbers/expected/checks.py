"""What has to hold for each published number beyond the form of its file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from typing import get_args

from scanproof.numbers.expected.build import Source
from scanproof.numbers.expected.messages import suggest
from scanproof.numbers.expected.problems import Problem
from scanproof.numbers.expected.schema import DocumentForm, EvaluationForm, JobForm, ValueForm
from scanproof.numbers.expected.tasks import AVERAGE, TaskInfo
from scanproof.numbers.expected.validation import Reading
from scanproof.numbers.expected.yaml_lines import Place, YamlFile, shorten
from scanproof.numbers.values import UNRECORDED, Origin, Suite

_RANGES = {"percent": (0.0, 100.0), "fraction": (0.0, 1.0)}
_LONGEST = 20
"""Characters of a printed number; a float has 17 digits."""

Tasks = Mapping[str, TaskInfo] | None
"""None where tasks.yaml has mistakes of its own: then nothing is said about names of tasks."""


def check_document(document: Reading[DocumentForm], tasks: Tasks) -> Iterator[Problem]:
    """Every problem of what is sound in a document's own file."""
    if document.has("assumed"):
        yield from check_assumed(document.file, (), document.form.assumed, tasks)


def check_source(source: Source, document: Reading[DocumentForm] | None, tasks: Tasks) -> Iterator[Problem]:
    """Every problem of what is sound in one evaluation file; `document` is None where it cannot be read."""
    form = source.form
    if document and document.has("number") and source.has("document") and form.document != document.form.number:
        message = f'is "{form.document}", but document.yaml beside it says "{document.form.number}"; write the same'
        yield source.file.problem(("document",), message)
    if source.has("assumed"):
        yield from check_assumed(source.file, (), form.assumed, tasks)
    suite = document.form.suite if document and document.has("suite") else None
    for position, value in enumerate(form.values):
        yield from _check_value(source, position, value, suite, tasks)


def check_assumed(file: YamlFile, place: Place, assumed: Mapping[str, str], tasks: Tasks) -> Iterator[Problem]:
    """Assumptions about fields, tasks or origins that do not exist."""
    for key in assumed:
        field, colon, narrowed = key.partition(":")
        where = (*place, "assumed", key)
        if field not in _fields():
            yield file.problem(where, f"{field!r} is not a field of a number{suggest(field, _fields())}")
        known = [*(tasks or ()), AVERAGE, *get_args(Origin)]
        if colon and tasks is not None and narrowed not in known:
            yield file.problem(where, f"{narrowed!r} is neither a task nor an origin{suggest(narrowed, known)}")


@cache
def _fields() -> tuple[str, ...]:
    forms = (JobForm, EvaluationForm, ValueForm)
    return tuple(sorted({name for form in forms for name in form.model_fields}))


def _check_value(
    source: Source, position: int, value: ValueForm, suite: Suite | None, tasks: Tasks
) -> Iterator[Problem]:
    file, place = source.file, ("values", position)
    sound = source.unsound_keys(position).isdisjoint
    if tasks is not None and sound(("task",)):
        yield from _check_names(source, position, value, tasks)
    info = tasks.get(value.task) if tasks is not None and sound(("task",)) else None
    if sound(("origin", "printed", "run")):
        yield from _check_recorded(source, place, value)
    if sound(("printed", "unit", "metric")) and (info is None or value.metric in info.metrics):
        yield from _check_number(file, place, value)
    if sound(("printed",)):
        yield from _check_length(file, (*place, "printed"), value.printed)
    if sound(("stderr",)) and value.stderr is not None:
        yield from _check_length(file, (*place, "stderr"), value.stderr)
    if suite is not None and sound(("origin",)) and (value.origin == "embedded") != (suite == "embedded"):
        message = f"is {value.origin!r} in a document of suite {suite}; embedded goes with embedded"
        yield file.problem((*place, "origin"), message)
    if sound(("assumed",)) and value.assumed:
        yield from check_assumed(file, place, value.assumed, tasks)


def _check_names(source: Source, position: int, value: ValueForm, tasks: Mapping[str, TaskInfo]) -> Iterator[Problem]:
    file, place = source.file, ("values", position)
    sound = source.unsound_keys(position).isdisjoint
    if value.task != AVERAGE:
        yield from _check_task(file, place, value.task, value.metric if sound(("metric",)) else None, tasks)
    if not sound(("parts",)):
        return
    if value.task == AVERAGE:
        yield from _check_average(file, place, value, tasks)
    elif value.parts:
        yield file.problem((*place, "parts"), f"belong to task: {AVERAGE}; the tasks of a group are in tasks.yaml")


def _check_recorded(source: Source, place: Place, value: ValueForm) -> Iterator[Problem]:
    """A number is either printed by somebody, or recorded from a run that the file names."""
    file, recorded = source.file, value.origin == "recorded"
    if value.printed == UNRECORDED and not recorded:
        yield file.problem((*place, "printed"), f"is {UNRECORDED}, which goes with origin: recorded")
    if value.run is not None and (not recorded or value.printed == UNRECORDED):
        yield file.problem((*place, "run"), "goes with a number of origin: recorded")
    if recorded and value.printed != UNRECORDED and value.run is None:
        yield file.problem((*place, "run"), f"is missing; write printed: {UNRECORDED}: `scanproof record` fills it in")
    if value.run is not None and source.has("runs") and value.run not in source.form.runs:
        yield file.problem((*place, "run"), f"is {value.run}, which is not among the runs of this file")


def _check_length(file: YamlFile, place: Place, printed: str) -> Iterator[Problem]:
    if len(printed) > _LONGEST:
        message = f"is {shorten(printed)}, {len(printed)} characters; write the digits as printed, {_LONGEST} at most"
        yield file.problem(place, message)


def _check_task(
    file: YamlFile, place: Place, task: str, metric: str | None, tasks: Mapping[str, TaskInfo]
) -> Iterator[Problem]:
    info = tasks.get(task)
    if info is None:
        known = suggest(task, [*tasks, AVERAGE])
        yield file.problem((*place, "task"), f"{task!r} is not a task of tasks.yaml{known}")
    elif metric is not None and metric not in info.metrics:
        message = f"{task} has no {metric!r}; write one of {', '.join(info.metrics)}"
        yield file.problem((*place, "metric"), message)


def _check_average(file: YamlFile, place: Place, value: ValueForm, tasks: Mapping[str, TaskInfo]) -> Iterator[Problem]:
    if not value.parts:
        message = "is missing; write the terms of the average, parts: [{task: ..., metric: ...}, ...]"
        yield file.problem((*place, "parts"), message)
    for position, part in enumerate(value.parts):
        yield from _check_task(file, (*place, "parts", position), part.task, part.metric, tasks)


def _check_number(file: YamlFile, place: Place, value: ValueForm) -> Iterator[Problem]:
    if len(value.printed) > _LONGEST or value.printed == UNRECORDED:
        return
    number = float(value.printed)
    if (value.metric == "perplexity") != (value.unit == "raw"):
        right = "raw" if value.metric == "perplexity" else "percent or fraction"
        yield file.problem((*place, "unit"), f"is {value.unit} for {value.metric}; write {right}")
    elif value.unit == "raw":
        if number < 1:
            yield file.problem((*place, "printed"), f"is {value.printed}; a perplexity is at least 1")
    else:
        low, high = _RANGES[value.unit]
        if not low <= number <= high:
            message = f"is {value.printed}, outside {low:g} to {high:g}; write the unit it was printed in"
            yield file.problem((*place, "printed"), message)
