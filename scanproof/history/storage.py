"""Where a history is kept: a folder or any URL that fsspec knows.  Objects are only added, each under a new name."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scanproof import files
from scanproof.history.errors import HistoryError


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
        if self.is_local:
            return list_files(Path(base))
        try:
            self.system.invalidate_cache()
            found = self.system.find(base, detail=True)
        except FileNotFoundError:
            return {}
        except Exception as error:
            raise HistoryError(f"{self.shown(folder)} cannot be listed: {said(error)}") from error
        start = len(self.system._strip_protocol(base).rstrip("/")) + 1
        return {path[start:]: int(entry.get("size") or 0) for path, entry in found.items()}

    def read(self, paths: Sequence[str]) -> list[bytes | Exception]:
        """Contents of several objects, in order; for one that cannot be read, its error."""
        if self.is_local:
            return [read_file(Path(self.path(path))) for path in paths]
        full = [self.path(path) for path in paths]
        try:
            found = self.system.cat(full, on_error="return") if full else {}
        except Exception as error:
            return [error] * len(full)
        if not isinstance(found, dict):
            return [found]
        by_name = {key.rstrip("/"): value for key, value in found.items()}
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
    """Size of every file below a folder, by its relative path; hidden files are still being written and left out."""
    found: dict[str, int] = {}
    waiting = [""]
    while waiting:
        below = waiting.pop()
        # A folder or a file may vanish between being listed and being asked: somebody prunes.
        # A file in a folder's place has nothing below it.
        with suppress(FileNotFoundError, NotADirectoryError), os.scandir(folder / below) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(f"{below}{entry.name}/")
                elif not entry.name.startswith("."):
                    with suppress(FileNotFoundError):
                        found[below + entry.name] = entry.stat().st_size
    return found


def read_file(path: Path) -> bytes | Exception:
    """A file's bytes, or the error."""
    try:
        return path.read_bytes()
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


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
