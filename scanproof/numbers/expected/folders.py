"""What lies in a folder of expected values: whether each entry is a document, and each document is there."""

from __future__ import annotations

import re
import shutil
from collections.abc import Collection, Iterator
from pathlib import Path

from scanproof.numbers.expected import constants, tasks
from scanproof.numbers.expected.constants import ToleranceForm
from scanproof.numbers.expected.problems import FileProblem
from scanproof.numbers.expected.validation import FormFile, is_sound

DOCUMENT_FILE = "document.yaml"
LATENCIES = "latency"
"""The folder of latency baselines."""
SCHEMAS = "schema"
"""The folder of the JSON Schemas, for editors."""
_NO_DOCUMENTS = (LATENCIES, SCHEMAS, "__pycache__")
_LIST = re.compile(r"^(?:#.*\n)*documents:.*\n(?:[ -].*\n)*", re.MULTILINE)


def is_yaml(name: str) -> bool:
    """Whether a name is that of a YAML file, in small letters or not: the reader says what is wrong with each."""
    return name.strip().lower().endswith((".yaml", ".yml"))


def check_entry(path: Path) -> Iterator[FileProblem]:
    """An entry that nobody can look at, as a link to nothing: the numbers behind it would just be gone."""
    if path.name.startswith(".") or is_yaml(path.name):
        return
    try:
        path.stat()
    except OSError as error:
        remedy = "restore what the link leads to, or remove the link" if path.is_symlink() else "make it readable"
        yield FileProblem(str(path), 1, "", f"cannot be read: {error.strerror}; {remedy}")


def check_without_files(folder: Path) -> Iterator[FileProblem]:
    """A folder that was a document: it is empty, or holds a YAML file under another name.

    Others may hold what belongs to nobody, as notes.
    """
    if folder.name.startswith(".") or is_yaml(folder.name) or folder.name in _NO_DOCUMENTS:
        return
    names = [path.name for path in folder.iterdir() if not path.name.startswith(".")]
    if not names or any(".yaml" in name for name in names):
        yield FileProblem(str(folder), 1, "", f"has no {DOCUMENT_FILE}; restore the document, or remove the folder")


def check_listed(tolerance: FormFile[ToleranceForm], documents: Collection[str]) -> Iterator[FileProblem]:
    """Documents that tolerance.yaml lists and that are not there, or the reverse; nothing where it has no list.

    Args:
        documents: names of the folders of all documents.
    """
    if not is_sound(tolerance.form, "documents") or not tolerance.form.documents:
        return
    listed = tolerance.form.documents
    for position, name in enumerate(listed):
        if name not in documents:
            message = f"{name} is listed and is not there; restore its folder, or remove this line where that was meant"
            yield tolerance.yaml.problem(("documents", position), message)
    for name in sorted(set(documents) - set(listed)):
        message = f"{name} is there and is not listed; add it, or remove its folder"
        yield tolerance.yaml.problem(("documents",), message)


def copy_shared(source: Path, target: Path) -> None:
    """Copy what all documents share to a folder that holds others, or a part of them: the list of them is left out."""
    target.mkdir(parents=True, exist_ok=True)
    shutil.copy2(source / tasks.FILE_NAME, target)
    text = (source / constants.FILE_NAME).read_text(encoding="utf-8")
    (target / constants.FILE_NAME).write_text(_LIST.sub("", text), encoding="utf-8")
