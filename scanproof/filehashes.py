"""Digests of files, each read once: remembered by path, size, times and inode."""

from __future__ import annotations

import hashlib
import os
import sqlite3
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from scanproof import mirror

_SKIPPED_FOLDERS = {".git", ".cache", "__pycache__"}
_SKIPPED_FILES = {mirror.METADATA, ".gitattributes", ".gitignore"}
_RACY_SECONDS = 2.0


class FileHashes:
    """sha256 of files, remembered by path, size, times and inode so that a checkpoint is read once.

    A file that changed less than two seconds before it was read is not remembered: a second change could
    carry the same time stamp.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path = path
        self._database = self._open()
        self.files_read = 0

    def _open(self) -> sqlite3.Connection:
        try:
            return self._connect()
        except sqlite3.DatabaseError as error:
            if isinstance(error, sqlite3.OperationalError):
                raise
            self._path.unlink(missing_ok=True)
            return self._connect()

    def _connect(self) -> sqlite3.Connection:
        database = sqlite3.connect(self._path, timeout=60, isolation_level=None)
        database.execute("create table if not exists files (path text primary key, stamp text, digest text)")
        return database

    def __enter__(self) -> FileHashes:
        return self

    def __exit__(self, *_: object) -> None:
        self._database.close()

    def digest(self, path: Path) -> str:
        """sha256 of a file's bytes, hexadecimal; raises OSError when it cannot be read."""
        status = path.stat()
        stamp = f"{status.st_size} {status.st_mtime_ns} {status.st_ctime_ns} {status.st_ino} {status.st_dev}"
        row = self._database.execute(
            "select stamp, digest from files where path = ?", (str(path),)
        ).fetchone()
        if row is not None and row[0] == stamp:
            return str(row[1])
        self.files_read += 1
        digest = _sha256(path)
        if time.time() - max(status.st_mtime, status.st_ctime) > _RACY_SECONDS:
            self._database.execute(
                "insert or replace into files values (?, ?, ?)", (str(path), stamp, digest)
            )
        return digest

    def tree(self, folder: Path, *, skip: Callable[[Path], bool] = lambda _: False) -> dict[str, str]:
        """Digest of each file below a folder, by relative path."""
        return {
            path.relative_to(folder).as_posix(): self.digest(path)
            for path in files_below(folder)
            if not skip(path)
        }


def files_below(folder: Path) -> Iterator[Path]:
    """All files that count: no version control, no caches, no locks, nothing half downloaded."""
    for current, folders, names in os.walk(folder, followlinks=True):
        folders[:] = sorted(name for name in folders if name not in _SKIPPED_FOLDERS)
        for name in sorted(names):
            if name not in _SKIPPED_FILES and not name.endswith((".pyc", ".lock", ".incomplete")):
                yield Path(current, name)


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
