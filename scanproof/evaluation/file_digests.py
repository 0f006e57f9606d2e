"""Digests of files.  Each file is read once; its digest is remembered by path, size, times and inode."""

from __future__ import annotations

import hashlib
import os
import sqlite3
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from scanproof.evaluation.hub import mirror

_SKIPPED_FOLDERS = {".git", ".cache", "__pycache__"}
_SKIPPED_FILES = {mirror.METADATA, ".gitattributes", ".gitignore"}
_SKIPPED_SUFFIXES = (".pyc", ".lock", ".incomplete")
_RACY_SECONDS = 2.0
"""A file that changed less than this before it was read may change again with the same time stamp."""
_LARGE = 1 << 26
"""Bytes.  The digest of a file of this size is written at once, so that an interruption does not lose it."""

Skip = Callable[[Path], bool]


class FileDigests:
    """sha256 of files, remembered in a database so that a checkpoint is read once.

    A file that changed less than two seconds before it was read is not remembered: a second change could
    have the same time stamp.  Use it in a `with` statement: new digests are written at its end.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._database = _open(path)
        self._pending: list[tuple[str, str, str]] = []
        self.files_read = 0
        """How many files were read because they were new or had changed."""

    def __enter__(self) -> FileDigests:
        return self

    def __exit__(self, *_: object) -> None:
        self._flush()
        self._database.close()

    def digest(self, path: Path) -> str:
        """sha256 of a file's bytes, hexadecimal; raises OSError when it cannot be read."""
        status = path.stat()
        times = f"{status.st_mtime_ns} {status.st_ctime_ns}"
        stamp = f"{status.st_size} {times} {status.st_ino} {status.st_dev}"
        query = "select stamp, digest from files where path = ?"
        row = self._database.execute(query, (str(path),)).fetchone()
        if row is not None and row[0] == stamp:
            return str(row[1])
        self.files_read += 1
        digest = _sha256(path)
        if time.time() - max(status.st_mtime, status.st_ctime) > _RACY_SECONDS:
            self._pending.append((str(path), stamp, digest))
            if status.st_size >= _LARGE:
                self._flush()
        return digest

    def _flush(self) -> None:
        with self._database:
            self._database.executemany("insert or replace into files values (?, ?, ?)", self._pending)
        self._pending.clear()

    def tree(self, folder: Path, *, skip: Skip = lambda _: False) -> dict[str, str]:
        """Digest of each file below a folder, by relative path."""
        paths = files_below(folder, skip=skip)
        return {path.relative_to(folder).as_posix(): self.digest(path) for path in paths}


def files_below(folder: Path, *, skip: Skip = lambda _: False) -> Iterator[Path]:
    """All files below a folder, without version control, caches, locks and unfinished downloads.

    `skip` is called with files and with folders; a skipped folder is not entered.
    """
    for current, folders, names in os.walk(folder, followlinks=True):
        here = Path(current)
        folders[:] = sorted(name for name in folders if name not in _SKIPPED_FOLDERS and not skip(here / name))
        for name in sorted(names):
            if name not in _SKIPPED_FILES and not name.endswith(_SKIPPED_SUFFIXES) and not skip(here / name):
                yield here / name


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _open(path: Path) -> sqlite3.Connection:
    """Open the database; a file that is no database is deleted and made anew."""
    try:
        return _connect(path)
    except sqlite3.DatabaseError as error:
        if isinstance(error, sqlite3.OperationalError):
            raise
        path.unlink(missing_ok=True)
        return _connect(path)


def _connect(path: Path) -> sqlite3.Connection:
    database = sqlite3.connect(path, timeout=60)
    with database:
        database.execute("create table if not exists files (path text primary key, stamp text, digest text)")
    return database
