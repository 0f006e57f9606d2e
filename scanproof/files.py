"""How files are written and read: atomically, and records as JSON."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from pydantic import TypeAdapter

T = TypeVar("T")


def to_json(value: object) -> bytes:
    """JSON of a dataclass instance, indented."""
    return TypeAdapter(type(value)).dump_json(value, indent=1)


def from_json(kind: type[T], text: bytes | str) -> T:
    """The inverse of `to_json`; raises pydantic.ValidationError."""
    return TypeAdapter(kind).validate_json(text)


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Path of a temporary neighbour that replaces `path` when the block ends without an error."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        if temporary.is_dir():
            shutil.rmtree(temporary)
        else:
            temporary.unlink(missing_ok=True)


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file so that a reader sees the old or the new content, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
