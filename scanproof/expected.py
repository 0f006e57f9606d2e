"""Read and check the folder of published numbers."""

from __future__ import annotations

import gc
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from scanproof import constants as tolerance_constants
from scanproof import tasks as task_file
from scanproof.constants import Constants, load_constants
from scanproof.problems import ExpectedError, Problem
from scanproof.published import Context, Source, published_values
from scanproof.schema import DocumentForm, EvaluationForm
from scanproof.tasks import TaskInfo, load_tasks
from scanproof.validation import attempt, read_form
from scanproof.value_checks import check_assumed, check_source
from scanproof.values import PublishedValue
from scanproof.yamlfile import YamlFile

__all__ = ["Document", "Expected", "ExpectedError", "Problem", "TaskInfo", "load"]

DOCUMENT_FILE = "document.yaml"


@dataclass(frozen=True, kw_only=True)
class Document:
    """One document, and what it says about how its numbers were made."""

    number: str
    """Number of the document's file name, `000`, or `embedded`."""
    folder: str
    """Folder of its expected values, relative to the folder of all."""
    title: str
    citation: str
    urls: tuple[str, ...]
    file: str | None
    """File name of the text whose lines the values name."""
    suite: Literal["gpu", "embedded"]
    harness: Mapping[str, Any]
    """name, version, relation (same, other, unknown), said."""
    hardware: Mapping[str, str]
    environment: Mapping[str, Any]
    """name, python, channels, conda (package -> version=build), packages (pip package -> version), wheels."""
    conventions: tuple[str, ...]
    assumed: Mapping[str, str]
    findings: tuple[Mapping[str, Any], ...]
    """What the audit finds here, explained: check, values (ids), reason."""


@dataclass(frozen=True, kw_only=True)
class Expected:
    """Everything in a folder of expected values."""

    values: tuple[PublishedValue, ...]
    """By document; the values of one job stand together."""
    documents: tuple[Document, ...]
    tasks: Mapping[str, TaskInfo]
    constants: Constants
    folder: Path


def load(folder: Path) -> Expected:
    """Read and check `folder`; raises ExpectedError with every problem of every file at once."""
    if not folder.is_dir():
        message = "is not a folder; name the folder of expected values, the one with tasks.yaml in it"
        raise ExpectedError([Problem(str(folder), 1, "", message)])
    with _collector_off():
        return _load(folder)


@contextmanager
def _collector_off() -> Iterator[None]:
    # Nothing here makes cycles, and walking 100,000 numbers again and again takes half of the time.
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _load(folder: Path) -> Expected:
    problems: list[Problem] = list(_check_places(folder))
    constants = attempt(problems, load_constants, folder / tolerance_constants.FILE_NAME)
    tasks = attempt(problems, load_tasks, folder / task_file.FILE_NAME)
    documents, values = _load_documents(folder, tasks, problems)
    problems += _check_ids(folder, values)
    if constants is not None and len(values) > constants.checks:
        problems.append(_too_many(folder, len(values), constants.checks))
    if problems or constants is None or tasks is None:
        raise ExpectedError(problems)
    return Expected(values=tuple(values), documents=tuple(documents), tasks=tasks, constants=constants, folder=folder)


def _check_places(folder: Path) -> Iterator[Problem]:
    """YAML files that would not be read where they are."""
    read_at_top = (tolerance_constants.FILE_NAME, task_file.FILE_NAME)
    documents = 0
    for path in sorted([*folder.rglob("*.yaml"), *folder.rglob("*.yml")]):
        depth = len(path.relative_to(folder).parts)
        documents += depth == 2
        if path.suffix == ".yml":
            yield Problem(str(path), 1, "", "is not read; end its name in .yaml")
        elif depth > 2 or (depth == 1 and path.name not in read_at_top):
            yield Problem(str(path), 1, "", f"is not read here; put it into the folder with its {DOCUMENT_FILE}")
    if not documents:
        yield Problem(str(folder), 1, "", f"holds no document; add a folder with a {DOCUMENT_FILE}")


def _load_documents(
    folder: Path, tasks: Mapping[str, TaskInfo] | None, problems: list[Problem]
) -> tuple[list[Document], list[PublishedValue]]:
    documents: list[Document] = []
    values: list[PublishedValue] = []
    numbers: dict[str, Path] = {}
    for subfolder in sorted(path for path in folder.iterdir() if path.is_dir()):
        files = sorted(subfolder.glob("*.yaml"))
        if not files:
            continue
        path = subfolder / DOCUMENT_FILE
        found = attempt(problems, read_form, path, DocumentForm)
        sources = list(_read_sources(folder, (file for file in files if file != path), problems))
        if found is None:
            continue
        form, file = found
        if form.number in numbers:
            message = f'is "{form.number}", which {numbers[form.number]} already is; give each document its own'
            problems.append(file.problem(("number",), message))
        numbers.setdefault(form.number, path)
        documents.append(_document(form, subfolder.name))
        if tasks is not None:
            values += _document_values(form, file, sources, tasks, problems)
    return documents, values


def _read_sources(folder: Path, paths: Iterable[Path], problems: list[Problem]) -> Iterator[Source]:
    for path in paths:
        found = attempt(problems, read_form, path, EvaluationForm)
        if found is not None:
            yield Source(path.relative_to(folder).as_posix(), found[1], found[0])


def _document_values(
    form: DocumentForm,
    file: YamlFile,
    sources: list[Source],
    tasks: Mapping[str, TaskInfo],
    problems: list[Problem],
) -> list[PublishedValue]:
    problems += check_assumed(file, (), form.assumed, tasks)
    sound = []
    for source in sources:
        found = list(check_source(source, form, tasks))
        problems += found
        if not found:
            sound.append(source)
    context = Context(tasks, form.harness.relation, form.suite, form.assumed)
    values, clashes = published_values(sound, context)
    problems += clashes
    return values


def _document(form: DocumentForm, folder: str) -> Document:
    return Document(
        number=form.number,
        folder=folder,
        title=form.title,
        citation=form.citation,
        urls=tuple(form.urls),
        file=form.file,
        suite=form.suite,
        harness=form.harness.model_dump(),
        hardware=dict(form.hardware),
        environment=form.environment.model_dump(),
        conventions=tuple(form.conventions),
        assumed=dict(form.assumed),
        findings=tuple(finding.model_dump() for finding in form.findings),
    )


def _check_ids(folder: Path, values: list[PublishedValue]) -> Iterator[Problem]:
    first: dict[str, PublishedValue] = {}
    for value in values:
        other = first.setdefault(value.id, value)
        if other is not value:
            message = (
                f"is a second {value.id}, after {other.file}:{other.file_line}; remove one of them, "
                "or write suffix: and a word that tells them apart"
            )
            yield Problem(str(folder / value.file), value.file_line, "values", message)


def _too_many(folder: Path, number: int, checks: int) -> Problem:
    path = folder / tolerance_constants.FILE_NAME
    lines = path.read_text(encoding="utf-8").splitlines()
    line = next((n for n, text in enumerate(lines, 1) if text.startswith("checks:")), 1)
    message = f"is {checks}, but the folder holds {number} numbers; write at least {number}"
    return Problem(str(path), line, "checks", message)
