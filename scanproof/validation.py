"""Check a file against its form, and say what is wrong in the words of the person who edits it."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from scanproof import yamlfile
from scanproof.problems import ExpectedError, Problem
from scanproof.yamlfile import Place, YamlFile

FormT = TypeVar("FormT", bound=BaseModel)
T = TypeVar("T")


def read_form(path: Path, form: type[FormT]) -> tuple[FormT, YamlFile]:
    """Read `path` as `form`; raises ExpectedError with every problem of the file at once."""
    data, file = yamlfile.read(path)
    try:
        return form.model_validate(data), file
    except ValidationError as error:
        found = error.errors(include_url=False, include_context=True, include_input=True)
        raise ExpectedError([_problem(file, item, form) for item in found]) from error


def attempt(problems: list[Problem], function: Callable[..., T], *arguments: Any) -> T | None:
    """What `function` returns; None when it raises ExpectedError, whose problems are then added."""
    try:
        return function(*arguments)
    except ExpectedError as error:
        problems.extend(error.problems)
        return None


def suggest(word: str, known: Iterable[str]) -> str:
    """`; did you mean a or b?`, or the whole list where nothing is close."""
    names = list(known)
    close = difflib.get_close_matches(word, names, n=3, cutoff=0.6)
    if close:
        return f"; did you mean {' or '.join(close)}?"
    shown = ", ".join(names[:12])
    return f"; write one of {shown}{', ...' if len(names) > 12 else ''}"


def _problem(file: YamlFile, item: Mapping[str, Any], form: type[BaseModel]) -> Problem:
    place: Place = tuple(item["loc"])
    kind, given = item["type"], item["input"]
    if place and place[-1] == "[key]":
        place = place[:-1]
    if kind == "missing":
        return file.problem(place, _missing(place, form))
    if kind == "extra_forbidden":
        return file.problem(place, f"is not a key that is read here{suggest(str(place[-1]), _keys(place, form))}")
    if kind == "string_type" and isinstance(given, (int, float)) and not isinstance(given, bool):
        written = file.text(place)
        return file.problem(place, f'is a bare number, which loses digits and zeros; write it in quotes, "{written}"')
    if kind == "literal_error":
        known = _choices(item["ctx"]["expected"])
        return file.problem(place, f"is {given!r}{suggest(str(given), known)}")
    if kind == "string_pattern_mismatch":
        return file.problem(place, f"is {given!r}; {_wanted(place, item['ctx']['pattern'])}")
    if kind == "model_type":
        return file.problem(place, "is not a mapping; write `key: value` lines")
    message = str(item["msg"]).removeprefix("Input should be ")
    return file.problem(place, f"is {given!r}; write {message}")


def _missing(place: Place, form: type[BaseModel]) -> str:
    field = _owner(place, form).model_fields.get(str(place[-1]))
    said = (field.description or "").split(". ")[0].rstrip(".") if field else ""
    return f"is missing; write {place[-1]}: {said[:1].lower()}{said[1:]}"


def _wanted(place: Place, pattern: str) -> str:
    if place[-1] in ("printed", "stderr"):
        return 'write the digits alone, such as "24.3", without sign, percent, dagger or stars'
    if place[-1] == "hub_id":
        return "write owner/name"
    if place[-1] in ("number", "document"):
        return 'write the three digits of the document in quotes, such as "001", or embedded'
    return f"write something of the form {pattern}"


def _owner(place: Place, form: type[BaseModel]) -> type[BaseModel]:
    """The form that holds the key at the end of `place`."""
    for step in place[:-1]:
        field = form.model_fields.get(str(step))
        nested = _nested(field.annotation) if field is not None else None
        if nested is not None:
            form = nested
    return form


def _nested(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    found = (_nested(argument) for argument in getattr(annotation, "__args__", ()))
    return next((form for form in found if form is not None), None)


def _keys(place: Place, form: type[BaseModel]) -> list[str]:
    return list(_owner(place, form).model_fields)


def _choices(expected: str) -> list[str]:
    return [word.strip("'") for word in expected.replace(" or ", ", ").split(", ")]
