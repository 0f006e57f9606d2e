"""How files are written and read: in one step, and as JSON."""

from __future__ import annotations

import json
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter

T = TypeVar("T")


def to_json(record: object, *, indent: int | None = 1) -> bytes:
    """JSON of a dataclass instance; `indent` None for one line."""
    return TypeAdapter(type(record)).dump_json(record, indent=indent)


def from_json(kind: type[T], text: bytes | str) -> T:
    """The inverse of `to_json`; raises pydantic.ValidationError."""
    return TypeAdapter(kind).validate_json(text)


def to_sorted_json(content: Any) -> bytes:
    """JSON of plain mappings and lists, keys sorted: the same bytes for the same content.

    Raises ValueError for NaN and infinities, which JSON cannot hold.
    """
    return (json.dumps(content, indent=1, sort_keys=True, allow_nan=False) + "\n").encode()


@contextmanager
def replace_atomically(path: Path) -> Iterator[Path]:
    """Path for a temporary file or folder that takes the place of `path` when the block ends without an error.

    Readers see the old or the new content, never a part, also when this process is killed.  The content is on the
    disk before it gets its name, so that a crash of the machine leaves no empty file under it.
    """
    with _write_beside(path) as temporary:
        yield temporary
        _flush_to_disk(temporary)
        temporary.replace(path)


def write_atomically(path: Path, content: bytes) -> None:
    """Replace a file by this content in one step, see `replace_atomically`."""
    with replace_atomically(path) as temporary:
        temporary.write_bytes(content)


def add_atomically(path: Path, content: bytes) -> None:
    """Write a new file in one step; raises FileExistsError where there is one, and leaves it as it is."""
    with _write_beside(path) as temporary:
        temporary.write_bytes(content)
        _flush_to_disk(temporary)
        try:
            # Unlike a rename, a link never replaces what another process has written meanwhile.
            os.link(temporary, path)
        except FileExistsError:
            raise
        except OSError:
            # The file system has no hard links.
            if path.exists():
                raise FileExistsError(path) from None
            temporary.replace(path)


@contextmanager
def _write_beside(path: Path) -> Iterator[Path]:
    """Path of a hidden neighbour, of a name that no other writer has; removed in the end if it is still there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        yield temporary
    finally:
        if temporary.is_dir():
            shutil.rmtree(temporary)
        else:
            temporary.unlink(missing_ok=True)


def _flush_to_disk(path: Path) -> None:
    """Wait until a file, or every file of a folder, is on the disk."""
    for file in (path, *path.rglob("*")) if path.is_dir() else (path,):
        if file.is_file():
            with file.open("rb") as opened:
                os.fsync(opened.fileno())
