"""What has to hold for each published number beyond the form of its file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from typing import get_args

from scanproof.problems import Problem
from scanproof.published import Source
from scanproof.schema import DocumentForm, EvaluationForm, JobForm, ValueForm
from scanproof.tasks import AVERAGE, TaskInfo
from scanproof.validation import suggest
from scanproof.values import Origin
from scanproof.yamlfile import Place, YamlFile

_RANGES = {"percent": (0.0, 100.0), "fraction": (0.0, 1.0)}


def check_source(source: Source, document: DocumentForm, tasks: Mapping[str, TaskInfo]) -> Iterator[Problem]:
    """Every problem of one evaluation file."""
    form = source.form
    if form.document != document.number:
        message = f'is "{form.document}", but document.yaml beside it says "{document.number}"; write the same'
        yield source.file.problem(("document",), message)
    yield from check_assumed(source.file, (), form.assumed, tasks)
    for position, value in enumerate(form.values):
        yield from _check_value(source, position, value, document, tasks)


def check_assumed(
    file: YamlFile, place: Place, assumed: Mapping[str, str], tasks: Mapping[str, TaskInfo]
) -> Iterator[Problem]:
    """Assumptions about fields, tasks or origins that do not exist."""
    for key in assumed:
        field, colon, narrowed = key.partition(":")
        where = (*place, "assumed", key)
        if field not in _fields():
            yield file.problem(where, f"{field!r} is not a field of a number{suggest(field, _fields())}")
        known = [*tasks, AVERAGE, *get_args(Origin)]
        if colon and narrowed not in known:
            yield file.problem(where, f"{narrowed!r} is neither a task nor an origin{suggest(narrowed, known)}")


@cache
def _fields() -> tuple[str, ...]:
    forms = (JobForm, EvaluationForm, ValueForm)
    return tuple(sorted({name for form in forms for name in form.model_fields}))


def _check_value(
    source: Source, position: int, value: ValueForm, document: DocumentForm, tasks: Mapping[str, TaskInfo]
) -> Iterator[Problem]:
    file, place = source.file, ("values", position)
    if value.task == AVERAGE:
        yield from _check_average(file, place, value, tasks)
    else:
        yield from _check_task(file, place, value.task, value.metric, tasks)
        if value.parts:
            yield file.problem((*place, "parts"), f"belong to task: {AVERAGE}; the tasks of a group are in tasks.yaml")
    info = tasks.get(value.task)
    if info is None or value.metric in info.metrics:
        yield from _check_number(file, place, value)
    if (value.origin == "embedded") != (document.suite == "embedded"):
        message = f"is {value.origin!r} in a document of suite {document.suite}; embedded goes with embedded"
        yield file.problem((*place, "origin"), message)
    if value.assumed:
        yield from check_assumed(file, place, value.assumed, tasks)


def _check_task(
    file: YamlFile, place: Place, task: str, metric: str, tasks: Mapping[str, TaskInfo]
) -> Iterator[Problem]:
    info = tasks.get(task)
    if info is None:
        known = suggest(task, [*tasks, AVERAGE])
        yield file.problem((*place, "task"), f"{task!r} is not a task of tasks.yaml{known}")
    elif metric not in info.metrics:
        message = f"{task} has no {metric!r}; write one of {', '.join(info.metrics)}"
        yield file.problem((*place, "metric"), message)


def _check_average(file: YamlFile, place: Place, value: ValueForm, tasks: Mapping[str, TaskInfo]) -> Iterator[Problem]:
    if not value.parts:
        message = "is missing; write the terms of the average, parts: [{task: ..., metric: ...}, ...]"
        yield file.problem((*place, "parts"), message)
    for position, part in enumerate(value.parts):
        yield from _check_task(file, (*place, "parts", position), part.task, part.metric, tasks)


def _check_number(file: YamlFile, place: Place, value: ValueForm) -> Iterator[Problem]:
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
