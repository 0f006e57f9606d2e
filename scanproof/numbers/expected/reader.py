"""Read and check the folder of published numbers."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from scanproof.numbers.expected import constants as tolerance_constants
from scanproof.numbers.expected import tasks as task_file
from scanproof.numbers.expected.build import Context, Source, check_ids, check_jobs, published_values
from scanproof.numbers.expected.checks import check_document, check_source
from scanproof.numbers.expected.constants import Constants, load_constants
from scanproof.numbers.expected.problems import ExpectedError, Problem
from scanproof.numbers.expected.schema import DocumentForm, EvaluationForm
from scanproof.numbers.expected.tasks import TaskInfo, load_tasks
from scanproof.numbers.expected.validation import FormT, Reading, attempt, read_sound
from scanproof.numbers.expected.yaml_lines import YamlFile
from scanproof.numbers.values import PublishedValue

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
    unrecorded: tuple[PublishedValue, ...]
    """Numbers that are measured, but that no trusted run has given a value yet."""
    documents: tuple[Document, ...]
    tasks: Mapping[str, TaskInfo]
    constants: Constants
    folder: Path

    @property
    def numbers(self) -> tuple[PublishedValue, ...]:
        """Everything that is measured."""
        return (*self.values, *self.unrecorded)


def load(folder: Path) -> Expected:
    """Read and check `folder`; raises ExpectedError with every problem of every file at once, by file and line.

    What is wrong in one key hides nothing else; only of a file that is not YAML, and of the names of tasks while
    tasks.yaml has mistakes of its own, more can come to light when that is mended.
    """
    if not _is_folder(folder):
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


@dataclass(frozen=True)
class _Folder:
    """The files of one document, as far as they are sound."""

    name: str
    document: Reading[DocumentForm] | None
    sources: tuple[Source, ...]


def _load(folder: Path) -> Expected:
    problems: list[Problem] = list(_check_places(folder))
    constants = attempt(problems, load_constants, folder / tolerance_constants.FILE_NAME)
    tasks = attempt(problems, load_tasks, folder / task_file.FILE_NAME)
    folders = list(_read_folders(folder, problems))
    problems += _check(folders, tasks)
    number = sum(len(source.form.values) for found in folders for source in found.sources)
    if constants is not None and number > constants.checks:
        problems.append(_too_many(folder, number, constants.checks))
    if problems or constants is None or tasks is None:
        raise ExpectedError(sorted(problems, key=lambda problem: (problem.file, problem.line)))
    whole = [(found, found.document.form) for found in folders if found.document is not None]
    numbers = [value for found, form in whole for value in _values(found, form, tasks)]
    return Expected(
        values=tuple(value for value in numbers if not value.unrecorded),
        unrecorded=tuple(value for value in numbers if value.unrecorded),
        documents=tuple(_document(form, found.name) for found, form in whole),
        tasks=tasks,
        constants=constants,
        folder=folder,
    )


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


def _read_folders(folder: Path, problems: list[Problem]) -> Iterator[_Folder]:
    for subfolder in attempt(problems, _entries, folder, Path.is_dir) or ():
        files = attempt(problems, _entries, subfolder, _is_yaml)
        if files:
            path = subfolder / DOCUMENT_FILE
            document = attempt(problems, _read, path, DocumentForm, problems)
            sources = _read_sources(folder, (file for file in files if file != path), problems)
            yield _Folder(subfolder.name, document, tuple(sources))


def _entries(folder: Path, wanted: Callable[[Path], bool]) -> list[Path]:
    try:
        return sorted(filter(wanted, folder.iterdir()))
    except OSError as error:
        raise ExpectedError([Problem(str(folder), 1, "", f"cannot be read: {error.strerror}")]) from error


def _is_yaml(path: Path) -> bool:
    return path.suffix == ".yaml"


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:
        return False


def _read(path: Path, form: type[FormT], problems: list[Problem]) -> Reading[FormT]:
    reading = read_sound(path, form)
    problems += reading.problems
    return reading


def _read_sources(folder: Path, paths: Iterable[Path], problems: list[Problem]) -> Iterator[Source]:
    for path in paths:
        found = attempt(problems, _read, path, EvaluationForm, problems)
        if found is not None:
            yield Source(path.relative_to(folder).as_posix(), found.file, found.form, found.places)


def _check(folders: Iterable[_Folder], tasks: Mapping[str, TaskInfo] | None) -> Iterator[Problem]:
    """What is wrong beyond the form of the files, in all that is sound of them."""
    first: dict[str, YamlFile] = {}
    sources: list[Source] = []
    for found in folders:
        sources += found.sources
        document = found.document
        if document is not None:
            yield from check_document(document, tasks)
        if document is not None and document.has("number"):
            other = first.setdefault(document.form.number, document.file)
            if other is not document.file:
                message = f'is "{document.form.number}", which {other.path} already is; give each document its own'
                yield document.file.problem(("number",), message)
        for source in found.sources:
            yield from check_source(source, document, tasks)
        yield from check_jobs(found.sources)
    yield from check_ids(sources)


def _values(found: _Folder, form: DocumentForm, tasks: Mapping[str, TaskInfo]) -> list[PublishedValue]:
    return published_values(found.sources, Context(tasks, form.harness.relation, form.suite, form.assumed))


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


def _too_many(folder: Path, number: int, checks: int) -> Problem:
    path = folder / tolerance_constants.FILE_NAME
    lines = path.read_text(encoding="utf-8").splitlines()
    line = next((n for n, text in enumerate(lines, 1) if text.startswith("checks:")), 1)
    message = f"is {checks}, but the folder holds {number} numbers; write at least {number}"
    return Problem(str(path), line, "checks", message)
