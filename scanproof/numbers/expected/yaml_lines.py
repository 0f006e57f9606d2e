"""Read one YAML file and keep the line of every key.

Stricter than YAML: no tags, no anchors, no aliases, no key twice, no character that cannot be seen.  Only `1`, `1.5`,
`true`, `false` and `null` are values; all else is text.  The data is built from libyaml's events.  Its nodes are
composed by recursion in C, which ends the process when a file is nested too deeply.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from scanproof import files
from scanproof.numbers.expected.problems import ExpectedError, FileProblem
from scanproof.printable import is_visible

KeyPath = tuple[str | int, ...]
"""Keys and list positions that lead from the top of a file to one entry."""


class Unread:
    """The type of UNREAD."""


UNREAD: Any = Unread()
"""Stands in the data for an entry that cannot be used; a problem of the file says why."""

_INT = re.compile(r"[-+]?(0|[1-9][0-9]*)\Z")
_FLOAT = re.compile(r"[-+]?[0-9]+(\.[0-9]*)?([eE][-+]?[0-9]+)?\Z")
_WORDS = {"true": True, "false": False, "null": None, "~": None, "": None}
_LONGEST_INT = 18
"""Characters: no number here is larger, and Python refuses to read one of more than 4300 digits."""
_DEEPEST = 30
"""Levels of nesting."""
_LARGEST = 1 << 22
"""Bytes of a file; the largest that people wrote has 14,000."""
_INVISIBLE = "has a character that cannot be seen; write it with those that can"


@dataclass(frozen=True)
class YamlFile:
    """The content of one file."""

    path: Path
    data: Any
    """Mappings, lists and scalars, with UNREAD where an entry cannot be used."""
    problems: tuple[FileProblem, ...]
    """Tags, anchors, aliases, keys that stand twice, numbers that are too large and characters that cannot be seen."""
    lines: dict[KeyPath, int]
    """Line of each key and list item, counted from 1."""
    texts: dict[KeyPath, str]
    """Each number, boolean and null as it is written."""

    def line(self, path: KeyPath) -> int:
        """Line of the entry at `path`, or of the nearest entry around it that exists."""
        while path and path not in self.lines:
            path = path[:-1]
        return self.lines.get(path, 1)

    def problem(self, path: KeyPath, message: str) -> FileProblem:
        """A problem of the entry at `path`."""
        return FileProblem(str(self.path), self.line(path), ".".join(map(str, path)), message)


def read_yaml(path: Path) -> YamlFile:
    """Read `path`; raises ExpectedError when it cannot be read at all, or is not YAML."""
    text = _read_text(path)
    builder = _Builder(str(path), yaml.parse(text, Loader=files.YamlLoader))
    try:
        data = builder.build_document()
    except yaml.YAMLError as error:
        raise ExpectedError([_syntax_problem(error, text, str(path))]) from error
    return YamlFile(path, data, tuple(builder.problems), builder.lines, builder.texts)


def shorten(text: str) -> str:
    """`text`, without its middle where it would fill a line of its own."""
    return text if len(text) <= 60 else f"{text[:40]}...{text[-10:]}"


def _read_text(path: Path) -> str:
    try:
        raw = files.read_bytes(path, _LARGEST)
    except OSError as error:
        raise ExpectedError([FileProblem(str(path), 1, "", f"cannot be read: {error.strerror}")]) from error
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        message = f"byte 0x{raw[error.start]:02x} is not UTF-8; save the file as UTF-8"
        raise ExpectedError([FileProblem(str(path), line, "", message)]) from error


def _syntax_problem(error: yaml.YAMLError, text: str, name: str) -> FileProblem:
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        mark = error.problem_mark
        parts = " ".join(part for part in (error.context, error.problem) if part)
        return FileProblem(name, mark.line + 1, "", f"is not YAML: {parts} (column {mark.column + 1})")
    position = getattr(error, "position", 0)
    reason = str(getattr(error, "reason", error))
    return FileProblem(name, text.count("\n", 0, position) + 1, "", f"is not YAML: {reason}")


@dataclass
class _Builder:
    """Builds the data of one file from its events."""

    name: str
    events: Any
    problems: list[FileProblem] = field(default_factory=list)
    lines: dict[KeyPath, int] = field(default_factory=dict)
    texts: dict[KeyPath, str] = field(default_factory=dict)

    def build_document(self) -> Any:
        next(self.events)  # the start of the stream
        if isinstance(next(self.events), yaml.StreamEndEvent):
            raise ExpectedError([FileProblem(self.name, 1, "", "is empty; write the keys that its schema asks for")])
        data = self._build(next(self.events), ())
        next(self.events)  # the end of the document
        after = next(self.events)
        if not isinstance(after, yaml.StreamEndEvent):
            raise yaml.MarkedYAMLError(
                problem="a second document begins here; write one file for each", problem_mark=after.start_mark
            )
        return data

    def _build(self, event: Any, path: KeyPath) -> Any:
        if isinstance(event, yaml.AliasEvent):
            return self._refuse(event, "an alias (*name) is not allowed; write the content again")
        data = self._build_scalar(event, path) if isinstance(event, yaml.ScalarEvent) else self._nested(event, path)
        return data if self._is_plain(event) else UNREAD

    def _is_plain(self, event: Any) -> bool:
        """Whether a value or a key has neither tag nor anchor; a problem says which."""
        if event.tag is not None:
            self._refuse(event, f"tag {shorten(event.tag)} is not allowed; write plain values")
        if event.anchor is not None:
            self._refuse(event, f"an anchor (&{shorten(event.anchor)}) is not allowed; aliases of it would not be read")
        return event.tag is None and event.anchor is None

    def _build_scalar(self, event: Any, path: KeyPath) -> Any:
        if not is_visible(event.value):
            return self._refuse(event, _INVISIBLE, ".".join(map(str, path)))
        if not event.implicit[0]:  # in quotes
            return event.value
        value = _convert(event.value)
        if value is UNREAD:
            message = f"{shorten(event.value)} is too large for a number; if it is a name, write it in quotes"
            return self._refuse(event, message)
        if not isinstance(value, str):
            self.texts[path] = event.value
        return value

    def _nested(self, event: Any, path: KeyPath) -> Any:
        if len(path) >= _DEEPEST:
            raise yaml.MarkedYAMLError(problem=f"more than {_DEEPEST} levels deep", problem_mark=event.start_mark)
        return self._list(path) if isinstance(event, yaml.SequenceStartEvent) else self._mapping(path)

    def _list(self, path: KeyPath) -> list[Any]:
        items: list[Any] = []
        while not isinstance(event := next(self.events), yaml.SequenceEndEvent):
            item = (*path, len(items))
            self.lines[item] = event.start_mark.line + 1
            items.append(self._build(event, item))
        return items

    def _mapping(self, path: KeyPath) -> dict[str, Any]:
        data: dict[str, Any] = {}
        while not isinstance(event := next(self.events), yaml.MappingEndEvent):
            line = event.start_mark.line + 1
            if not isinstance(event, yaml.ScalarEvent):
                self._refuse(event, "a key has to be a word; it is a list, a mapping or an alias")
                self._build(event, (*path, ""))
                self._build(next(self.events), (*path, ""))
                continue
            key = event.value
            self._is_plain(event)
            if not is_visible(key) or "\n" in key or "\t" in key:
                self._refuse(event, _INVISIBLE, key)
            if key in data:
                message = "stands twice in one mapping, and YAML would drop the first; remove one of them"
                self._refuse(event, message, key)
            entry = (*path, key)
            self.lines[entry] = line
            data[key] = self._build(next(self.events), entry)
        return data

    def _refuse(self, event: Any, message: str, key: str = "") -> Any:
        self.problems.append(FileProblem(self.name, event.start_mark.line + 1, key, message))
        return UNREAD


def _convert(text: str) -> Any:
    """The value of a scalar without quotes; UNREAD where it is a number that is too large."""
    if text in _WORDS:
        return _WORDS[text]
    if _INT.match(text):
        return int(text) if len(text) <= _LONGEST_INT else UNREAD
    if _FLOAT.match(text):
        number = float(text)
        return number if math.isfinite(number) else UNREAD
    return text
