"""Read and check the folder of published numbers."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from scanproof import files
from scanproof.numbers.expected import constants as constants_file
from scanproof.numbers.expected import tasks as tasks_file
from scanproof.numbers.expected.build import EvaluationFile, published_values
from scanproof.numbers.expected.checks import DocumentFiles, check_files
from scanproof.numbers.expected.constants import Constants, ToleranceForm, make_constants
from scanproof.numbers.expected.folders import DOCUMENT_FILE, check_entry, check_listed, check_without_files, is_yaml
from scanproof.numbers.expected.problems import ExpectedError, FileProblem
from scanproof.numbers.expected.schema import DocumentForm, EvaluationForm, ValueForm
from scanproof.numbers.expected.tasks import TaskInfo, load_tasks
from scanproof.numbers.expected.validation import FormFile, FormT, attempt, is_sound, keep_sound, read_form
from scanproof.numbers.values import PublishedValue
from scanproof.numbers.verdict.answers import ANSWERS

__all__ = ["Expected", "ExpectedError", "FileProblem", "PublishedDocument", "TaskInfo", "load"]


@dataclass(frozen=True, kw_only=True)
class PublishedDocument:
    """One document, and what it says about how its numbers were made."""

    number: str
    """Number of the document's file name, `000`, or `embedded`."""
    folder: str
    """Folder of its expected values, relative to the folder of all."""
    title: str
    citation: str
    urls: Sequence[str]
    file: str | None
    """File name of the text whose lines the values name."""
    suite: Literal["gpu", "embedded"]
    numbers: int
    """How many its files hold, unrecorded ones included."""
    harness: Mapping[str, Any]
    """name, version, relation (same, other, unknown), said."""
    hardware: Mapping[str, str]
    environment: Mapping[str, Any]
    """name, python, channels, conda (package -> version=build), packages (pip package -> version), wheels."""
    conventions: Sequence[str]
    assumed: Mapping[str, str]
    findings: Sequence[Mapping[str, Any]]
    """Explanations of what the audit finds here: check, values (ids), reason."""


@dataclass(frozen=True, kw_only=True)
class Expected:
    """Everything in a folder of expected values."""

    values: tuple[PublishedValue, ...]
    """By document; the values of one job stand together."""
    unrecorded: tuple[PublishedValue, ...]
    """Numbers that are measured, but that no trusted run has given a value yet."""
    documents: tuple[PublishedDocument, ...]
    tasks: Mapping[str, TaskInfo]
    constants: Constants
    folder: Path

    @property
    def numbers(self) -> tuple[PublishedValue, ...]:
        """Everything that is measured."""
        return (*self.values, *self.unrecorded)


def load(folder: Path) -> Expected:
    """Read and check `folder`; raises ExpectedError with every problem of every file at once, by file and line.

    A mistake in one key hides no other mistake, with two exceptions: a file that is not YAML, and the names of tasks
    while tasks.yaml has mistakes of its own.
    """
    if not files.is_folder(folder):
        message = "is not a folder; name the folder of expected values, the one with tasks.yaml in it"
        raise ExpectedError([FileProblem(str(folder), 1, "", message)])
    problems = list(_check_file_names(folder))
    tolerance = attempt(problems, read_form, folder / constants_file.FILE_NAME, ToleranceForm)
    constants = attempt(problems, make_constants, tolerance) if tolerance is not None else None
    tasks = attempt(problems, load_tasks, folder / tasks_file.FILE_NAME)
    read = list(_read_documents(folder, problems))
    problems += check_files(read, tasks)
    if tolerance is not None:
        problems += check_listed(tolerance, {files.folder for files in read})
        problems += _check_capacity(tolerance, read)
    if problems or constants is None or tasks is None:
        raise ExpectedError(sorted(problems, key=lambda problem: (problem.file, problem.line)))
    complete = [(files, files.document.form) for files in read if files.document is not None]
    numbers = [value for files, form in complete for value in published_values(files.evaluations, folder, form, tasks)]
    return Expected(
        values=tuple(value for value in numbers if not value.unrecorded),
        unrecorded=tuple(value for value in numbers if value.unrecorded),
        documents=tuple(PublishedDocument(folder=files.folder, **form.model_dump()) for files, form in complete),
        tasks=tasks,
        constants=constants,
        folder=folder,
    )


def _check_capacity(tolerance: FormFile[ToleranceForm], read: Sequence[DocumentFiles]) -> Iterator[FileProblem]:
    """More numbers than share the rate of false alarms."""
    count = sum(len(evaluation.form.values) for files in read for evaluation in files.evaluations)
    if is_sound(tolerance.form, "checks") and count > tolerance.form.checks:
        message = f"is {tolerance.form.checks}, but the folder holds {count} numbers; write at least {count}"
        yield tolerance.yaml.problem(("checks",), message)


def _check_file_names(folder: Path) -> Iterator[FileProblem]:
    """YAML files that nothing would read, and a folder without documents."""
    read_at_top = (constants_file.FILE_NAME, tasks_file.FILE_NAME)
    depths = set()
    for path in sorted(_yaml_files(folder)):
        depth = len(path.relative_to(folder).parts)
        depths.add(depth)
        if path.suffix != ".yaml":
            yield FileProblem(str(path), 1, "", "is not read; end its name in .yaml")
        elif depth > 2 or (depth == 1 and path.name not in read_at_top):
            yield FileProblem(str(path), 1, "", f"is not read here; put it into the folder with its {DOCUMENT_FILE}")
    if 2 not in depths:
        yield FileProblem(str(folder), 1, "", f"holds no document; add a folder with a {DOCUMENT_FILE}")


def _yaml_files(folder: Path) -> Iterator[Path]:
    """Whatever is named as a YAML file, in small letters or not, also behind links to folders."""
    entered: set[str] = set()
    known = any(files.is_file(folder / name) for name in (constants_file.FILE_NAME, tasks_file.FILE_NAME))
    deepest = 4 if known else 1
    for current, folders, names in os.walk(folder, followlinks=True):
        entered.add(os.path.realpath(current))
        listed = [*folders, *names]
        # A link may lead back to a folder above it, and a wrong folder may be the whole disk.
        inside = len(Path(current).relative_to(folder).parts) < deepest
        folders[:] = [name for name in folders if inside and os.path.realpath(Path(current, name)) not in entered]
        yield from (Path(current, name) for name in listed if is_yaml(name))


def _read_documents(folder: Path, problems: list[FileProblem]) -> Iterator[DocumentFiles]:
    for path in _entries(folder, lambda path: True, problems):
        problems += check_entry(path)
        if files.is_folder(path):
            yield from _read_document(path, problems)


def _read_document(folder: Path, problems: list[FileProblem]) -> Iterator[DocumentFiles]:
    known = len(problems)
    paths = _entries(folder, lambda path: path.suffix == ".yaml", problems)
    problems += _find_lost_files(folder, {path.name for path in paths}, problems)
    if paths:
        evaluations = [_read_evaluation(path, problems) for path in paths if path.name != DOCUMENT_FILE]
        document = attempt(problems, read_form, folder / DOCUMENT_FILE, DocumentForm)
        readable = tuple(file for file in evaluations if file is not None)
        read = DocumentFiles(folder.name, document, readable, whole=len(readable) == len(evaluations))
        problems += _problems_with_count(read)
        yield read
    elif len(problems) == known:
        problems += check_without_files(folder)


def _problems_with_count(files: DocumentFiles) -> Iterator[FileProblem]:
    """What is wrong with the form of document.yaml; where `numbers` is missing, with the number to write."""
    for problem in files.document.problems if files.document is not None else ():
        missing = problem.key == "numbers" and problem.message.startswith("is missing")
        exact = f"is missing; write numbers: {files.count}, as many as the files of this document hold"
        yield replace(problem, message=exact) if missing and files.count else problem


def _find_lost_files(folder: Path, names: Collection[str], problems: list[FileProblem]) -> Iterator[FileProblem]:
    """Recorded answers without the file of their numbers: without a word the numbers would be missed by nobody."""
    for path in _entries(folder, lambda path: path.name.endswith(ANSWERS), problems):
        lost = f"{path.name.removesuffix(ANSWERS)}.yaml"
        if lost not in names:
            message = f"these answers belong to the numbers of {lost}, which is not there; restore it, or remove both"
            yield FileProblem(str(path), 1, "", message)


def _entries(folder: Path, is_wanted: Callable[[Path], bool], problems: list[FileProblem]) -> list[Path]:
    try:
        return sorted(filter(is_wanted, folder.iterdir()))
    except OSError as error:
        problems.append(FileProblem(str(folder), 1, "", f"cannot be read: {error.strerror}"))
        return []


def _read(path: Path, form: type[FormT], problems: list[FileProblem]) -> FormFile[FormT] | None:
    file = attempt(problems, read_form, path, form)
    problems.extend(file.problems if file is not None else ())
    return file


def _read_evaluation(path: Path, problems: list[FileProblem]) -> EvaluationFile | None:
    """An evaluation file whose values are sound as far as each of them is."""
    file = _read(path, EvaluationForm, problems)
    if file is None or is_sound(file.form, "values"):
        return file
    rows = file.yaml.data.get("values") if isinstance(file.yaml.data, dict) else None
    values = [keep_sound(ValueForm, row) for row in rows] if isinstance(rows, list) else []
    return FormFile(file.form.model_copy(update={"values": values}), file.yaml, file.problems)
