"""Where a history is kept: a folder or any URL that fsspec knows.  Objects are only added, each under a new name."""

from __future__ import annotations

import hashlib
import os
import shlex
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scanproof import files
from scanproof.history.errors import HistoryError

LARGEST = 1 << 30
"""Bytes of one file of a history; the answers of a night have a few hundred MB at most."""


@dataclass(frozen=True)
class Place:
    """A folder or a bucket."""

    name: str
    """As the user wrote it."""
    root: str
    """Path inside the file system."""
    system: Any = None
    """fsspec's file system of a URL; None for a folder."""

    def path(self, *parts: str) -> str:
        return "/".join([self.root.rstrip("/"), *parts])

    def shown(self, *parts: str) -> str:
        """A path as the user would write it."""
        return "/".join([self.name.rstrip("/"), *parts])

    @property
    def is_local(self) -> bool:
        return self.system is None

    def sizes(self, folder: str) -> dict[str, int]:
        """Size in bytes of every object below a folder, by its path from there; raises HistoryError."""
        base = self.path(folder)
        try:
            if self.is_local:
                return list_files(Path(base))
            self.system.invalidate_cache()
            entries = self.system.find(base, detail=True)
        except FileNotFoundError:
            return {}
        except Exception as error:
            raise HistoryError(f"{self.shown(folder)} cannot be listed: {said(error)}") from error
        start = len(self.system._strip_protocol(base).rstrip("/")) + 1
        return {path[start:]: int(entry.get("size") or 0) for path, entry in entries.items()}

    def read(self, paths: Sequence[str]) -> list[bytes | Exception]:
        """Contents of several objects, in order; for one that cannot be read, its error."""
        if self.is_local:
            return [read_file(Path(self.path(path))) for path in paths]
        full = [self.path(path) for path in paths]
        try:
            contents = self.system.cat(full, on_error="return") if full else {}
        except Exception as error:
            return [error] * len(full)
        if not isinstance(contents, dict):
            return [contents]
        by_name = {key.rstrip("/"): value for key, value in contents.items()}
        return [by_name.get(self.system._strip_protocol(path), FileNotFoundError(path)) for path in full]

    def add(self, path: str, content: bytes) -> None:
        """Add an object, whole or not at all.

        The same bytes may be added again, as when a publication is repeated.  Raises HistoryError for other bytes.
        """
        try:
            if self.is_local:
                files.add_atomically(Path(self.path(path)), content)
            else:
                # A bucket shows an object when its upload is complete.
                if self.system.exists(self.path(path)):
                    raise FileExistsError(path)
                self.system.pipe_file(self.path(path), content)
        except FileExistsError:
            if self.read([path]) != [content]:
                raise HistoryError(f"{self.shown(path)} is there already, with another content") from None
        except Exception as error:
            raise HistoryError(f"{self.shown(path)} cannot be written: {said(error)}") from error

    def remove(self, path: str) -> None:
        """Delete an object; raises HistoryError."""
        try:
            if self.is_local:
                Path(self.path(path)).unlink()
            else:
                self.system.rm_file(self.path(path))
        except FileNotFoundError:
            return
        except Exception as error:
            raise HistoryError(f"{self.shown(path)} cannot be deleted: {said(error)}") from error

    def is_link(self, folder: str) -> bool:
        """Whether a folder is only a link to one."""
        return self.is_local and Path(self.path(folder)).is_symlink()

    def remove_entry(self, folder: str) -> bool:
        """Delete a link, not what it leads to, or a file; False where it is a folder.  Raises HistoryError."""
        if not self.is_local or (Path(self.path(folder)).is_dir() and not self.is_link(folder)):
            return False
        self.remove(folder)
        return True

    def tidy(self, folder: str) -> None:
        """Remove an empty folder where folders exist."""
        if self.is_local:
            for inner in sorted(Path(self.path(folder)).rglob("*"), reverse=True):
                if inner.is_dir():
                    inner.rmdir()
            Path(self.path(folder)).rmdir()


def said(error: Exception) -> str:
    """An error of a file system in one line."""
    return (getattr(error, "strerror", None) or str(error) or type(error).__name__).splitlines()[0]


def list_files(folder: Path) -> dict[str, int]:
    """Size of every file below a folder, by its relative path; hidden files are still being written and left out.

    A link in the folder itself to another folder has the files right in that one: deeper it is not followed, so that a
    circle of links ends.  A link that leads nowhere is a file without a byte.
    """
    sizes: dict[str, int] = {}
    waiting = [""]
    while waiting:
        below = waiting.pop()
        # A folder or a file may vanish between being listed and being asked: somebody prunes.
        # A file in a folder's place has nothing below it.
        with suppress(FileNotFoundError, NotADirectoryError), os.scandir(folder / below) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(f"{below}{entry.name}/")
                elif entry.name.startswith("."):
                    continue
                elif entry.is_symlink():
                    sizes |= list_link(entry.path, below + entry.name, follow=not below)
                else:
                    with suppress(FileNotFoundError):
                        sizes[below + entry.name] = entry.stat().st_size
    return sizes


def list_link(path: str, name: str, *, follow: bool) -> dict[str, int]:
    """What a link leads to: a file, or the files of a folder where it is to be followed; else it has no byte itself."""
    if follow and Path(path).is_dir():
        # One that cannot be listed is named like one that leads nowhere.
        with suppress(OSError), os.scandir(path) as entries:
            inner = [entry for entry in entries if entry.is_file() and not entry.name.startswith(".")]
            return {f"{name}/{entry.name}": entry.stat().st_size for entry in inner} or {name: 0}
    try:
        return {name: Path(path).stat().st_size}
    except OSError:
        return {name: 0}


def read_file(path: Path) -> bytes | Exception:
    """A file's bytes, or the error."""
    try:
        return files.read_bytes(path, LARGEST)
    except OSError as error:
        return error


def open_place(name: str) -> Place:
    """The folder or bucket of that name; raises HistoryError when it cannot be reached."""
    if "://" not in name:
        return Place(name, str(Path(name).expanduser()))
    from fsspec.core import url_to_fs

    try:
        system, root = url_to_fs(name)
    except (ImportError, ValueError) as error:
        raise HistoryError(f"the history {name} cannot be opened: {said(error)}") from error
    except Exception as error:
        raise HistoryError(f"the history {name} cannot be reached: {said(error)}") from error
    return Place(name, root, system)


def explain_missing(name: str) -> str | None:
    """Why a folder is no place for a history yet: it does not exist; None for one that does, and for a bucket.

    A misspelt folder would begin a new, empty history, in which nothing drifts.  A bucket has no folders.
    """
    # fsspec's chains, such as simplecache::file:///history, end with the place itself.
    scheme, separator, path = name.rpartition("::")[2].partition("://")
    folder = name if not separator else path if scheme in ("file", "local") else ""
    if not folder or Path(folder).expanduser().is_dir():
        return None
    return (
        f"there is no folder {folder}; mend the name, or begin a new history, before the first night alone: "
        f"mkdir {shlex.quote(folder)}"
    )


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
