"""Changes of the content of files, from bytes to bytes; faults of the gates are made of them."""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Callable
from typing import Any

BytesChange = Callable[[bytes], bytes]
Row = dict[str, Any]


def replace_text(pattern: str, new: str, count: int = 0) -> BytesChange:
    """Replace what a regular expression finds, everywhere or `count` times."""
    return lambda content: re.sub(pattern, new, content.decode(), count=count, flags=re.MULTILINE).encode()


def change_lines(change: Callable[[list[str]], list[str]]) -> BytesChange:
    """Change a list of the file's lines."""
    return lambda content: "".join(f"{line}\n" for line in change(content.decode().splitlines())).encode()


def without_line(index: int) -> BytesChange:
    """A row is gone."""
    return change_lines(lambda lines: [*lines[:index], *lines[index + 1 :]])


def with_line_twice(index: int) -> BytesChange:
    """A row stands there twice."""
    return change_lines(lambda lines: [*lines[: index + 1], *lines[index:]])


def with_line_in_place_of(index: int, other: int) -> BytesChange:
    """One row is replaced by another, so that their number stays."""
    return change_lines(lambda lines: [*lines[:other], lines[index], *lines[other + 1 :]])


def change_row(index: int, change: Callable[[Row], Row]) -> BytesChange:
    """Change one row of a JSON-lines file."""
    return change_lines(
        lambda lines: [*lines[:index], json.dumps(change(json.loads(lines[index]))), *lines[index + 1 :]]
    )


def change_json(change: Callable[[Any], Any]) -> BytesChange:
    """Change a JSON file."""
    return lambda content: json.dumps(change(json.loads(content))).encode()


def inside_gzip(change: BytesChange) -> BytesChange:
    """Change what a gzipped file holds."""
    return lambda content: gzip.compress(change(gzip.decompress(content)), mtime=0)


def change_answers(change: Callable[[Row], Row | None]) -> BytesChange:
    """Change each answer in a file of recorded answers, or leave it out; what else the file says stays."""

    def change_all(lines: list[str]) -> list[str]:
        told = [json.loads(line) for line in lines]
        rows = [change(row) if "doc_id" in row else row for row in told]
        return [json.dumps(row) for row in rows if row is not None]

    return inside_gzip(change_lines(change_all))


def cut(content: bytes) -> bytes:
    """The first half."""
    return content[: len(content) // 2]


def flip_bit(content: bytes) -> bytes:
    """One bit in the middle of the file is flipped."""
    changed = bytearray(content)
    changed[len(changed) // 2] ^= 1
    return bytes(changed)


def change_tensors(pattern: str, change: Callable[[Any], Any]) -> BytesChange:
    """Change the tensors, numpy arrays, of a safetensors file whose names a regular expression finds.

    One that becomes None is left out.
    """

    def change_all(content: bytes) -> bytes:
        from safetensors.numpy import load, save

        weights = load(content)
        changed = {name: change(value) if re.search(pattern, name) else value for name, value in weights.items()}
        kept = {name: value for name, value in changed.items() if value is not None}
        return bytes(save(kept, metadata={"format": "pt"}))

    return change_all
