"""How files are written and read: written in one step, read only where they are regular files of a sane size."""

from __future__ import annotations

import errno
import gzip
import io
import json
import os
import shutil
import stat
import uuid
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import TypeAdapter

T = TypeVar("T")
_adapter: Callable[[Any], TypeAdapter[Any]] = cache(TypeAdapter)
"""pydantic's reader and writer of a class; making that of a run takes as long as reading many runs."""
LARGEST = 1 << 28
"""Bytes of a file that is read at once.  The largest that scanproof writes are answers, a few MB."""


def read_bytes(path: Path, largest: int = LARGEST) -> bytes:
    """The content of a regular file, or of a link to one.

    Raises:
        OSError: it cannot be read, is larger than `largest` bytes, or is a folder, a pipe or a device: reading those
            could wait, or go on, for ever.
    """
    _check_regular(path, path.stat().st_mode)
    # Between the question and the opening somebody may put a pipe there: then opening does not wait either.
    with os.fdopen(os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0)), "rb") as file:
        _check_regular(path, os.fstat(file.fileno()).st_mode)
        content = file.read(largest + 1)
    if len(content) > largest:
        raise OSError(errno.EFBIG, f"is larger than {largest} bytes", str(path))
    return content


def _check_regular(path: Path, mode: int) -> None:
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not stat.S_ISREG(mode):
        raise OSError(errno.EINVAL, "is a pipe, a socket or a device, not a file", str(path))


def read_text(path: Path, largest: int = LARGEST) -> str:
    """The UTF-8 text of a regular file; raises OSError as `read_bytes`, and ValueError where it is not UTF-8."""
    return read_bytes(path, largest).decode("utf-8")


def read_gzip(path: Path, largest: int = LARGEST) -> bytes:
    """What a gzipped regular file holds; raises OSError as `read_bytes`, and ValueError where it is damaged."""
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(read_bytes(path, largest))) as file:
            content = file.read(largest + 1)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise ValueError(f"not a whole gzip file: {error}") from error
    if len(content) > largest:
        raise ValueError(f"it holds more than {largest} bytes")
    return content


def read_json(path: Path, largest: int = LARGEST) -> Any:
    """The JSON of a regular file; raises OSError as `read_bytes`, and ValueError where it is no JSON."""
    return parse_json(read_bytes(path, largest))


def read_json_object(path: Path, largest: int = LARGEST) -> dict[str, Any]:
    """The JSON object of a regular file; raises OSError as `read_bytes`, and ValueError where it is another thing."""
    content = read_json(path, largest)
    if not isinstance(content, dict):
        raise ValueError(f"it holds {name_json_type(content)}, not an object")
    return content


def read_record(kind: type[T], path: Path, largest: int = LARGEST) -> T:
    """What `to_json` wrote to a regular file; raises OSError as `read_bytes`, and ValueError where it is no `kind`."""
    return from_json(kind, read_bytes(path, largest))


def parse_json(content: bytes | str) -> Any:
    """JSON as plain mappings and lists; raises ValueError, also where it is nested too deeply for Python."""
    try:
        return json.loads(content)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


YamlLoader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""libyaml's, several times as fast, where PyYAML was built with it.  Both build plain values only."""


def parse_yaml(content: bytes | str) -> Any:
    """YAML as plain mappings and lists; raises yaml.YAMLError."""
    return yaml.load(content, Loader=YamlLoader)


def name_json_type(content: Any) -> str:
    """What JSON calls a value."""
    names = {dict: "an object", list: "a list", str: "text", bool: "a boolean", type(None): "null"}
    return names.get(type(content), "a number")


def is_file(path: Path) -> bool:
    """Whether `path` is a regular file; False also for a name that no file can have, where pathlib raises."""
    return os.path.isfile(path)  # noqa: PTH113


def is_folder(path: Path) -> bool:
    """Whether `path` is a folder; False also for a name that no folder can have, where pathlib raises."""
    return os.path.isdir(path)  # noqa: PTH112


def remove(path: Path) -> None:
    """Remove what is at `path`, whatever it is; nothing where there is nothing."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def to_json(record: object, *, indent: int | None = 1) -> bytes:
    """JSON of a dataclass instance; `indent` None for one line."""
    return _adapter(type(record)).dump_json(record, indent=indent)


def from_fields(kind: type[T], fields: Mapping[str, Any]) -> T:
    """A dataclass instance of plain fields; raises pydantic.ValidationError."""
    adapter: TypeAdapter[T] = _adapter(kind)
    return adapter.validate_python(fields)


def from_json(kind: type[T], text: bytes | str) -> T:
    """The inverse of `to_json`; raises pydantic.ValidationError."""
    adapter: TypeAdapter[T] = _adapter(kind)
    return adapter.validate_json(text)


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
