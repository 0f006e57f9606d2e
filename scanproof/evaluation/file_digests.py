"""Digests of files.  Each file is read once; its digest is remembered by path, size, times and inode."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import sqlite3
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from scanproof import files
from scanproof.evaluation.hub import mirror

_SKIPPED = {".git", ".cache", mirror.METADATA, ".gitattributes", ".gitignore"}
SETTLED = 2.0
"""Seconds.  A file that changed less than this before it was read may change again with the same time stamp."""
_LARGE = 1 << 26
"""Bytes.  The digest of a file of this size is written at once, so that an interruption does not lose it."""

_DIGEST = re.compile(r"[0-9a-f]{64}")
_IN_USE = {
    sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM,
}  # fmt: skip
"""Errors of a database that may be sound, and is only not to be used now."""
_UNUSABLE = (sqlite3.DatabaseError, UnicodeDecodeError)
"""What sqlite3 raises for a database that cannot be used; it does not decode a message with damaged text in it."""

Skip = Callable[[Path], bool]


def is_compiled(path: Path) -> bool:
    """Whether a file or folder holds compiled modules, which Python makes anew where their source changed."""
    return path.name == "__pycache__" or path.suffix == ".pyc"


class FileDigests:
    """sha256 of files, remembered in a database so that a checkpoint is read once.

    A file that changed less than two seconds before it was read is not remembered: a second change could
    have the same time stamp.  A database that is damaged, or none of ours, is begun anew; where none can be written,
    digests are remembered for the session.  Use it in a `with` statement: new digests are written at its end.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path = path
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
        """sha256 of a file's bytes, hexadecimal; raises OSError when it cannot be read, or is no regular file."""
        return self.digest_with_status(str(path), path.stat())

    def digest_with_status(self, path: str, status: os.stat_result) -> str:
        """As `digest`, for a file whose status was just asked for."""
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "is not a regular file, and reading it may never end", path)
        stamp = stamp_file(status)
        name = path.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
        known = self._find(name, stamp)
        if known is not None:
            return known
        self.files_read += 1
        digest = _sha256(path)
        if is_settled(status):
            self._pending.append((name, stamp, digest))
            if status.st_size >= _LARGE:
                self._flush()
        return digest

    def _find(self, name: str, stamp: str) -> str | None:
        """The remembered digest of a file that has this stamp."""
        try:
            row = self._database.execute("select stamp, digest from files where path = ?", (name,)).fetchone()
        except _UNUSABLE as error:
            self._database = _reopen(self._database, self._path, error)
            return None
        if row is None or row[0] != stamp or not isinstance(row[1], str) or not _DIGEST.fullmatch(row[1]):
            return None
        return row[1]

    def _flush(self) -> None:
        for _ in range(2):
            try:
                with self._database:
                    self._database.executemany("insert or replace into files values (?, ?, ?)", self._pending)
                break
            except _UNUSABLE as error:
                self._database = _reopen(self._database, self._path, error)
        self._pending.clear()

    def tree(self, folder: Path, *, skip: Skip = is_compiled) -> dict[str, str]:
        """Digest of each file below a folder, by relative path."""
        paths = files_below(folder, skip=skip)
        return {path.relative_to(folder).as_posix(): self.digest(path) for path in paths}


def stamp_file(status: os.stat_result) -> str:
    """What changes when a file does: size, times, inode and device."""
    return f"{status.st_size} {status.st_mtime_ns} {status.st_ctime_ns} {status.st_ino} {status.st_dev}"


def is_settled(status: os.stat_result) -> bool:
    """Whether a file that is read now and changes afterwards gets another stamp."""
    return time.time() - max(status.st_mtime, status.st_ctime) > SETTLED


def files_below(folder: Path, *, skip: Skip = is_compiled) -> Iterator[Path]:
    """All files below a folder, without version control and what downloads leave.

    `skip` is called with files and with folders; a skipped folder is not entered.
    """
    for entry in walk(str(folder), lambda path: Path(path).name in _SKIPPED or skip(Path(path))):
        yield Path(entry.path)


def walk(
    folder: str, skip: Callable[[str], bool], above: frozenset[tuple[int, int]] = frozenset()
) -> Iterator[os.DirEntry[str]]:
    """Every file below a folder, by name; links are followed, but not back to a folder that the walk is in.

    `skip` is called with the path of each file and folder.
    """
    here = os.stat(folder)  # noqa: PTH116
    if (here.st_dev, here.st_ino) in above:
        return
    with os.scandir(folder) as entries:
        kept = sorted((entry for entry in entries if not skip(entry.path)), key=lambda entry: entry.name)
    for entry in kept:
        if entry.is_dir():
            yield from walk(entry.path, skip, above | {(here.st_dev, here.st_ino)})
        else:
            yield entry


def _sha256(path: str) -> str:
    with open(path, "rb") as file:  # noqa: PTH123
        return hashlib.file_digest(file, "sha256").hexdigest()


def _open(path: Path) -> sqlite3.Connection:
    """Open the database; what is no database is deleted, and a new one made."""
    try:
        if path.exists() and not path.is_file():
            files.remove(path)
        return _connect(path)
    except (OSError, *_UNUSABLE) as error:
        return _reopen(None, path, error)


def _reopen(database: sqlite3.Connection | None, path: Path, error: Exception) -> sqlite3.Connection:
    """A new database in place of one that cannot be used; in memory where that one is only in use, or in the way."""
    if database is not None:
        database.close()
    # The last byte is the kind of error; the others say more.
    if isinstance(error, _UNUSABLE) and getattr(error, "sqlite_errorcode", 0) & 0xFF not in _IN_USE:
        try:
            for ending in ("", "-journal", "-wal", "-shm"):
                files.remove(path.with_name(path.name + ending))
            return _connect(path)
        except (OSError, *_UNUSABLE):
            pass
    return _connect(":memory:")


def _connect(path: Path | str) -> sqlite3.Connection:
    database = sqlite3.connect(path, timeout=60)
    try:
        with database:
            database.execute("create table if not exists files (path text primary key, stamp text, digest text)")
    except _UNUSABLE:
        database.close()
        raise
    return database
