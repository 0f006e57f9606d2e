"""What is wrong with the form of a file, in the words of the person who edits it."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import BaseModel

from scanproof.numbers.expected.problems import Problem
from scanproof.numbers.expected.yaml_lines import Place, YamlFile, shorten

_UNION = ("job", "model_args")
_NAME = "^[A-Za-z0-9_.-]+$"
_PATTERNS = {_NAME: "a name of letters, digits, ., _ and - alone"}
_PLAIN = {
    "int_type": "a whole number",
    "float_type": "a number",
    "finite_number": "a number that is not infinite",
    "bool_type": "true or false",
    "list_type": "a list, [one, two]",
    "dict_type": "`key: value` lines",
    "model_type": "`key: value` lines",
    "too_short": "at least one entry",
}
_FALLBACK = "what the schema of the file asks for"


def form_problem(file: YamlFile, item: Mapping[str, Any], form: type[BaseModel]) -> Problem:
    """The problem that one of pydantic's errors stands for."""
    place: Place = tuple(item["loc"])
    kind, given = item["type"], item["input"]
    if place and place[-1] == "[key]":
        return file.problem(place[:-1], _of_key(place[-2]))
    if place[:2] == _UNION and len(place) == 4:
        return file.problem(place[:3], f"{_is(given)}; write text, a number, true or false")
    if kind == "missing":
        return file.problem(place, _missing(place, form))
    if kind == "extra_forbidden":
        return file.problem(place, f"is not a key that is read here{suggest(str(place[-1]), _keys(place, form))}")
    if kind == "literal_error":
        known = _choices(item["ctx"]["expected"])
        return file.problem(place, f"{_is(given)}{suggest(str(given), known)}")
    if kind == "string_type" and isinstance(given, (bool, int, float)):
        return file.problem(place, _unquoted(given, file.text(place)))
    if kind in ("int_type", "float_type") and isinstance(given, str) and _is_number(given):
        return file.problem(place, f"is text, {_shown(given)}; write the number without quotes")
    return file.problem(place, f"{_is(given)}; write {_wanted(item, place, form)}")


def suggest(word: str, known: Iterable[str]) -> str:
    """`; did you mean a or b?`, or the whole list where nothing is close."""
    names = list(known)
    close = difflib.get_close_matches(word, names, n=3, cutoff=0.6)
    if close:
        return f"; did you mean {' or '.join(close)}?"
    shown = ", ".join(names[:12])
    return f"; write one of {shown}{', ...' if len(names) > 12 else ''}"


def _is(given: Any) -> str:
    if given is None or given in ("", [], {}):
        return "is empty"
    if isinstance(given, dict):
        return "is a mapping"
    if isinstance(given, list):
        return "is a list"
    return f"is {_shown(given)}"


def _shown(given: Any) -> str:
    if isinstance(given, bool):
        return str(given).lower()
    return repr(shorten(given)) if isinstance(given, str) else str(given)


def _is_number(text: str) -> bool:
    return text.isascii() and text.replace(".", "", 1).removeprefix("-").isdigit()


def _unquoted(given: Any, written: str) -> str:
    if isinstance(given, bool):
        return f'is {written} without quotes; write text, in quotes if it is meant: "{written}"'
    return f'is a bare number, which loses digits and zeros; write it in quotes, "{written}"'


def _of_key(key: str | int) -> str:
    if key == "":
        return "is an empty key; write the name that the text belongs to"
    return f"is the key {_shown(key)}; write {_PATTERNS[_NAME]}"


def _wanted(item: Mapping[str, Any], place: Place, form: type[BaseModel]) -> str:
    kind, context = item["type"], item.get("ctx", {})
    if kind in ("string_type", "string_too_short"):
        return "a reason" if "assumed" in place[:-1] else _described(place, form) or "text"
    if kind == "string_pattern_mismatch":
        return _of_form(place, context["pattern"])
    if kind == "greater_than":
        return f"a number above {context['gt']:g}"
    if kind == "greater_than_equal":
        return f"{context['ge']} or more"
    return _PLAIN.get(kind, _FALLBACK)


def _of_form(place: Place, pattern: str) -> str:
    if place[-1] in ("printed", "stderr"):
        return 'the digits alone, such as "24.3", without sign, percent, dagger or stars'
    if place[-1] == "hub_id":
        return "owner/name"
    if place[-1] in ("number", "document"):
        return 'the three digits of the document in quotes, such as "001", or embedded'
    return _PATTERNS.get(pattern, _FALLBACK)


def _missing(place: Place, form: type[BaseModel]) -> str:
    return f"is missing; write {place[-1]}: {_described(place, form)}"


def _described(place: Place, form: type[BaseModel]) -> str:
    field = _owner(place, form).model_fields.get(str(place[-1]))
    said = (field.description or "").split(". ")[0].rstrip(".") if field else ""
    return f"{said[:1].lower()}{said[1:]}"


def _owner(place: Place, form: type[BaseModel]) -> type[BaseModel]:
    """The form that holds the key at the end of `place`; one without keys inside of free `key: text` lines."""
    for step in place[:-1]:
        field = form.model_fields.get(str(step))
        if field is not None:
            form = _nested(field.annotation) or BaseModel
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
