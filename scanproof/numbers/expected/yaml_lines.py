"""Read one YAML file so that every key still knows its line.

Plainer than YAML on purpose: no tags, no aliases, no key twice, and only `1`, `1.5`, `true`, `false` and
`null` are anything but text.  Building the data here, from libyaml's nodes, takes half the time of
yaml.CSafeLoader.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from scanproof.numbers.expected.problems import ExpectedError, Problem

Place = tuple[str | int, ...]
"""Where something stands in a file: keys and list positions from the top."""

_INT = re.compile(r"[-+]?(0|[1-9][0-9]*)\Z")
_FLOAT = re.compile(r"[-+]?[0-9]+(\.[0-9]*)?([eE][-+]?[0-9]+)?\Z")
_WORDS = {"true": True, "false": False, "null": None, "~": None, "": None}
_PLAIN, _TEXT, _COLLECTION = "plain", "text", "collection"
_LONGEST_INT = 18
"""Characters: no number here is larger, and Python refuses to read one of more than 4300 digits."""

_DEEPEST = 30


class Unread:
    """Stands in the data for what could not be read; a problem of the file says why."""


_UNREAD = Unread()
_TOO_LARGE = Unread()


def _resolve(_loader: Any, kind: Any, _value: str, implicit: Any) -> str:
    if kind is not yaml.ScalarNode:
        return _COLLECTION
    return _PLAIN if implicit[0] else _TEXT


def _descend(loader: Any, parent: Any, _index: Any) -> None:
    # libyaml's binding composes by recursion in C: without a limit, a deep file ends the process.
    loader.depth += 1
    if loader.depth > _DEEPEST:
        raise yaml.MarkedYAMLError(problem=f"more than {_DEEPEST} levels deep", problem_mark=parent.start_mark)


def _ascend(loader: Any) -> None:
    loader.depth -= 1


_Loader: Any = type(
    "_Loader",
    (getattr(yaml, "CSafeLoader", yaml.SafeLoader),),
    {
        "resolve": _resolve,
        "depth": 0,
        "descend_resolver": _descend,
        "ascend_resolver": _ascend,
        "__doc__": "Marks each scalar as plain or quoted, instead of guessing its type.",
    },
)


@dataclass(frozen=True)
class YamlFile:
    """One file.  Its nodes are not kept: of 100,000 numbers they would take a gigabyte."""

    path: Path
    item_lines: Mapping[str, list[int]]
    """Top-level list -> lines on which its items begin."""
    problems: tuple[Problem, ...] = ()
    """What is YAML, but not to be used: tags, aliases, keys that stand twice, numbers too large."""

    def line(self, place: Place) -> int:
        """Line of the key at `place`, or of the nearest enclosing one that is there."""
        line = 1
        for mark, _ in self._walk(place):
            line = int(mark.line) + 1
        return line

    def text(self, place: Place) -> str:
        """The scalar at `place`, character by character as written."""
        steps = self._walk(place)
        return str(steps[-1][1].value) if steps else ""

    def problem(self, place: Place, message: str) -> Problem:
        """A problem of this file at `place`."""
        return Problem(str(self.path), self.line(place), ".".join(map(str, place)), message)

    def _walk(self, place: Place) -> list[tuple[Any, Any]]:
        """(mark, node) of each step of `place` that is there."""
        node, walked = self._root, []
        for step in place:
            found = _step(node, step)
            if found is None:
                break
            walked.append(found)
            node = found[1]
        return walked

    @cached_property
    def _root(self) -> Any:
        return _compose(_text(self.path), self.path)


def read(path: Path) -> tuple[Any, YamlFile]:
    """The data of `path`, `Unread` where a problem of the file keeps it from being read, and the lines.

    Raises ExpectedError when the file cannot be read at all, or is not YAML.
    """
    root = _compose(_text(path), path)
    problems: list[Problem] = []
    data = _build(root, str(path), problems, set())
    return data, YamlFile(path, _item_lines(root), tuple(problems))


def _item_lines(root: Any) -> dict[str, list[int]]:
    if not isinstance(root, yaml.MappingNode):
        return {}
    return {
        key.value: [item.start_mark.line + 1 for item in node.value]
        for key, node in root.value
        if isinstance(node, yaml.SequenceNode)
    }


def _text(path: Path) -> str:
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise ExpectedError([Problem(str(path), 1, "", f"cannot be read: {error.strerror}")]) from error
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        message = f"byte 0x{raw[error.start]:02x} is not UTF-8; save the file as UTF-8"
        raise ExpectedError([Problem(str(path), line, "", message)]) from error


def _compose(text: str, path: Path) -> Any:
    try:
        loader = _Loader(text)
        try:
            root = loader.get_single_node()
        finally:
            loader.dispose()
    except yaml.YAMLError as error:
        raise ExpectedError([_syntax_problem(error, text, str(path))]) from error
    if root is None:
        raise ExpectedError([Problem(str(path), 1, "", "is empty; write the keys that its schema asks for")])
    return root


def _syntax_problem(error: yaml.YAMLError, text: str, name: str) -> Problem:
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        mark = error.problem_mark
        said = " ".join(part for part in (error.context, error.problem) if part)
        return Problem(name, mark.line + 1, "", f"is not YAML: {said} (column {mark.column + 1})")
    position = getattr(error, "position", 0)
    reason = getattr(error, "reason", error)
    return Problem(name, text.count("\n", 0, position) + 1, "", f"is not YAML: {reason}")


def _build(node: Any, name: str, problems: list[Problem], seen: set[int]) -> Any:
    tag = node.tag
    if tag is _PLAIN:
        value = _scalar(node.value)
        if value is _TOO_LARGE:
            message = f"{shorten(node.value)} is too large for a number; if it is a name, write it in quotes"
            problems.append(Problem(name, node.start_mark.line + 1, "", message))
        return value
    if tag is _TEXT:
        return node.value
    if tag is not _COLLECTION:
        problems.append(Problem(name, node.start_mark.line + 1, "", f"tag {tag} is not allowed; write plain values"))
        return _UNREAD
    if id(node) in seen:
        message = "an alias (*name) is not allowed; write the content again"
        problems.append(Problem(name, node.start_mark.line + 1, "", message))
        return _UNREAD
    seen.add(id(node))
    if isinstance(node, yaml.SequenceNode):
        return [_build(item, name, problems, seen) for item in node.value]
    return _mapping(node, name, problems, seen)


def _mapping(node: Any, name: str, problems: list[Problem], seen: set[int]) -> dict[str, Any]:
    data: dict[str, Any] = {}
    for key_node, value_node in node.value:
        key, line = key_node.value, key_node.start_mark.line + 1
        if not isinstance(key, str):
            problems.append(Problem(name, line, "", "a key has to be a word; it is a list or a mapping"))
            continue
        if key in data:
            message = "stands twice in one mapping, and YAML would drop the first; remove one of them"
            problems.append(Problem(name, line, key, message))
        data[key] = _build(value_node, name, problems, seen)
    return data


def _scalar(text: str) -> Any:
    if text in _WORDS:
        return _WORDS[text]
    if _INT.match(text):
        return int(text) if len(text) <= _LONGEST_INT else _TOO_LARGE
    if _FLOAT.match(text):
        number = float(text)
        return number if math.isfinite(number) else _TOO_LARGE
    return text


def shorten(text: str) -> str:
    """`text`, its middle left out where it would fill a line of its own."""
    return text if len(text) <= 60 else f"{text[:40]}...{text[-10:]}"


def _step(node: Any, step: str | int) -> tuple[Any, Any] | None:
    """(mark of the key or item, node) one step down, or None."""
    if isinstance(node, yaml.MappingNode):
        for key_node, value_node in node.value:
            if key_node.value == step:
                return key_node.start_mark, value_node
    elif isinstance(node, yaml.SequenceNode) and isinstance(step, int) and step < len(node.value):
        return node.value[step].start_mark, node.value[step]
    return None
