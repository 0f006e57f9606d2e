"""The store of finished evaluations: one folder per key, which is written once and checked whenever it is read.

<store>/<key[:2]>/<key>/   job, fingerprint, results, environment, run, entry, checksums (.json), samples/
<store>/failed/            attempts that ended in an error, with the worker's log
<store>/damaged/           entries whose bytes no longer match their checksums
<store>/texts/             the questions of all entries; equal files are kept once, and entries hold hard links to them
<store>/cache/             file digests, task index, Arrow files; can be deleted at any time
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from filelock import FileLock

from scanproof import files
from scanproof.evaluation.imported import Imported
from scanproof.files import to_sorted_json, write_atomically
from scanproof.printable import LONGEST, make_printable

CHECKSUMS = "checksums.json"
TEXTS = ".texts.jsonl.gz"
"""Ending of the name of a file of questions."""
IMPORTED = "imported.json"
"""File of what the worker had imported."""
REQUIRED = ("job.json", "fingerprint.json", "results.json", "environment.json", "entry.json", IMPORTED)


class DamagedEntry(Exception):
    """A stored evaluation whose files changed or vanished after they were written."""

    def __init__(self, message: str) -> None:
        super().__init__(make_printable(message, LONGEST))


@dataclass(frozen=True)
class Entry:
    """A stored evaluation."""

    folder: Path
    results: dict[str, Any]
    environment: dict[str, Any]
    session: str
    """Name of the session that measured it."""
    finished: str
    """When it was measured: ISO 8601, UTC."""
    imported: Imported
    """What its worker had imported."""

    @property
    def samples(self) -> Path:
        return self.folder / "samples"


def folder_of(root: Path, key: str) -> Path:
    return root / key[:2] / key


def is_key(key: object) -> bool:
    """Whether `key` is one that entries are stored under, and not a path that leads elsewhere."""
    return isinstance(key, str) and re.fullmatch("[0-9a-f]{64}", key) is not None


def lock(root: Path, key: str) -> FileLock:
    """Lock of one key between processes; the operating system frees it when the process that holds it dies."""
    path = root / "locks" / f"{key}.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    return FileLock(path)


def new_attempt(root: Path) -> Path:
    """Make a folder for a worker's output, on the same file system as the entries."""
    folder = root / "attempts" / uuid.uuid4().hex
    folder.mkdir(parents=True)
    return folder


def read(root: Path, key: str) -> Entry | None:
    """The entry of `key`, or None if there is none.

    Raises:
        DamagedEntry: a byte of it changed, or a file is gone.
    """
    folder = folder_of(root, key)
    if not folder.is_dir():
        return None
    with damaged_unless_sound(folder / CHECKSUMS):
        written = files.read_json_object(folder / CHECKSUMS)
        present = _checksums(folder)
        missing = [name for name in REQUIRED if name not in written]
    wrong = sorted({*missing, *(name for name in {*written, *present} if written.get(name) != present.get(name))})
    if wrong:
        raise DamagedEntry(f"{folder}: {', '.join(wrong)} changed or missing since the evaluation was stored")
    with damaged_unless_sound(folder):
        about = files.read_json_object(folder / "entry.json")
        return Entry(
            folder=folder,
            results=files.read_json_object(folder / "results.json"),
            environment=files.read_json_object(folder / "environment.json"),
            session=str(about["session"]),
            imported=files.read_record(Imported, folder / IMPORTED),
            finished=datetime.fromtimestamp(about["finished"], UTC).isoformat(timespec="seconds"),
        )


@contextlib.contextmanager
def damaged_unless_sound(path: Path) -> Iterator[None]:
    """A block that reads parts of an entry: what is not as it is written raises DamagedEntry, which names `path`."""
    try:
        yield
    except (OSError, ValueError, LookupError, TypeError, AttributeError, OverflowError) as error:
        raise DamagedEntry(f"{path}: not as it is written ({type(error).__name__}: {error})") from error


def add(root: Path, key: str, attempt: Path, *, session: str, documents: dict[str, Any]) -> Entry:
    """Move a finished attempt into the store under `key`; it replaces an older entry.

    `documents` are further JSON files, name -> content.  The caller holds the key's lock.
    """
    for name, content in documents.items():
        write_atomically(attempt / name, to_sorted_json(content))
    write_atomically(attempt / "entry.json", to_sorted_json({"session": session, "finished": time.time()}))
    checksums = _checksums(attempt)
    _share_texts(root, attempt, checksums)
    write_atomically(attempt / CHECKSUMS, to_sorted_json(checksums))
    folder = folder_of(root, key)
    folder.parent.mkdir(parents=True, exist_ok=True)
    if os.path.lexists(folder):
        _discard(root, folder)
    attempt.rename(folder)
    entry = read(root, key)
    if entry is None:
        raise DamagedEntry(f"{folder} vanished right after it was written")
    return entry


def set_aside(root: Path, key: str) -> Path:
    """Move a damaged entry to `damaged/`; returns its new folder."""
    target = root / "damaged" / f"{key}-{_stamp()}"
    target.parent.mkdir(parents=True, exist_ok=True)
    folder_of(root, key).rename(target)
    return target


def keep_failure(root: Path, name: str, attempt: Path) -> Path:
    """Move what a failed worker left to `failed/`, under a readable name; returns the folder."""
    target = root / "failed" / f"{re.sub(r'[^A-Za-z0-9._-]+', '_', name)}-{_stamp()}-{attempt.name[:6]}"
    target.parent.mkdir(parents=True, exist_ok=True)
    attempt.rename(target)
    return target


def _checksums(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != CHECKSUMS
    }


def _share_texts(root: Path, attempt: Path, checksums: dict[str, str]) -> None:
    """Replace files of questions by hard links to equal files of earlier entries, where the file system has links."""
    for name in (name for name in checksums if name.endswith(TEXTS)):
        shared, own = root / "texts" / f"{checksums[name]}{TEXTS}", attempt / name
        shared.parent.mkdir(parents=True, exist_ok=True)
        link = own.with_name(f".{own.name}.{uuid.uuid4().hex}")
        with contextlib.suppress(OSError):
            intact = shared.is_file() and hashlib.sha256(shared.read_bytes()).hexdigest() == checksums[name]
            source, target = (shared, own) if intact else (own, shared)
            os.link(source, link)
            link.replace(target)


def _discard(root: Path, folder: Path) -> None:
    """Remove an entry: rename its folder first, because deleting its files may take long."""
    grave = root / "attempts" / f"old-{uuid.uuid4().hex}"
    grave.parent.mkdir(parents=True, exist_ok=True)
    folder.rename(grave)
    files.remove(grave)


def _stamp() -> str:
    return time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
