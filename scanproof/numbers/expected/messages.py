"""Turn the errors of pydantic into messages for the person who edits the file."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import BaseModel

from scanproof.numbers.expected.problems import FileProblem
from scanproof.numbers.expected.schema import NAME, TEXT
from scanproof.numbers.expected.yaml_lines import KeyPath, YamlFile, shorten

_NAME_WANTED = "a name of letters, digits, ., _ and - alone, 100 at most, that begins with none of . and -"
_FALLBACK = "what the schema of the file asks for"
_DIGITS_WANTED = 'the digits alone, such as "24.3", without sign, percent, dagger or stars'
_NUMBER_WANTED = 'the three digits of the document in quotes, such as "001", or embedded'
_WANTED_BY_KEY = {
    "printed": _DIGITS_WANTED,
    "stderr": _DIGITS_WANTED,
    "comes_out": _DIGITS_WANTED,
    "hub_id": "owner/name",
    "number": _NUMBER_WANTED,
    "document": _NUMBER_WANTED,
}
_WANTED_BY_ERROR = {
    "int_type": "a whole number",
    "float_type": "a number",
    "finite_number": "a number that is not infinite",
    "bool_type": "true or false",
    "list_type": "a list, [one, two]",
    "dict_type": "`key: value` lines",
    "model_type": "`key: value` lines",
    "too_short": "at least one entry",
}


def form_problem(file: YamlFile, error: Mapping[str, Any], form: type[BaseModel]) -> FileProblem:
    """The problem for one of pydantic's errors."""
    path: KeyPath = tuple(error["loc"])
    if path and path[-1] == "[key]":
        return file.problem(path[:-1], _key_message(path[-2]))
    if path[:2] == ("job", "model_args") and len(path) == 4:  # the last step is a type of the union
        return file.problem(path[:3], f"{_describe(error['input'])}; write text, a number, true or false")
    return file.problem(path, _message(file, error, path, form))


def _message(file: YamlFile, error: Mapping[str, Any], path: KeyPath, form: type[BaseModel]) -> str:
    kind, value = error["type"], error["input"]
    if kind == "missing":
        return f"is missing; write {path[-1]}: {_meaning(path, form)}"
    if kind == "extra_forbidden":
        return f"is not a key that is read here{suggest(str(path[-1]), _owner(path, form).model_fields)}"
    if kind == "literal_error":
        allowed = re.findall("'([^']+)'", error["ctx"]["expected"])
        return f"{_describe(value)}{suggest(str(value), allowed)}"
    if kind == "string_type" and isinstance(value, bool):
        written = file.texts[path]
        return f'is {written} without quotes; write text, in quotes if it is meant: "{written}"'
    if kind == "string_type" and isinstance(value, (int, float)):
        return f'is a bare number, which loses digits and zeros; write it in quotes, "{file.texts[path]}"'
    if kind in ("int_type", "float_type") and isinstance(value, str) and _is_number(value):
        return f"is text, {_show(value)}; write the number without quotes"
    return f"{_describe(value)}; write {_wanted(error, path, form)}"


def suggest(word: str, known: Iterable[str]) -> str:
    """`; did you mean a or b?`, or the whole list where nothing is close."""
    names = list(known)
    close = difflib.get_close_matches(word, names, n=3, cutoff=0.6)
    if close:
        return f"; did you mean {' or '.join(close)}?"
    shown = ", ".join(names[:12])
    return f"; write one of {shown}{', ...' if len(names) > 12 else ''}"


def _describe(value: Any) -> str:
    if value is None or value in ("", [], {}):
        return "is empty"
    if isinstance(value, str) and not value.strip():
        return "is blank"
    if isinstance(value, dict):
        return "is a mapping"
    return "is a list" if isinstance(value, list) else f"is {_show(value)}"


def _show(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return repr(shorten(value)) if isinstance(value, str) else str(value)


def _is_number(text: str) -> bool:
    return text.isascii() and text.replace(".", "", 1).removeprefix("-").isdigit()


def _key_message(key: str | int) -> str:
    if not str(key).strip():
        return "is an empty key; write the name that the text belongs to"
    return f"is the key {_show(key)}; write {_NAME_WANTED}"


def _wanted(error: Mapping[str, Any], path: KeyPath, form: type[BaseModel]) -> str:
    kind, context = error["type"], error.get("ctx", {})
    is_blank = kind == "string_pattern_mismatch" and context["pattern"] == TEXT
    if is_blank or kind in ("string_type", "string_too_short"):
        return "a reason" if "assumed" in path[:-1] else _meaning(path, form) or "text"
    if kind == "string_pattern_mismatch":
        return _NAME_WANTED if context["pattern"] == NAME else _WANTED_BY_KEY.get(str(path[-1]), _FALLBACK)
    if kind == "greater_than":
        return f"a number above {context['gt']:g}"
    if kind == "less_than":
        return f"a number below {context['lt']:g}"
    if kind == "greater_than_equal":
        return f"{context['ge']} or more"
    if kind == "less_than_equal":
        return f"{context['le']} or less"
    return _WANTED_BY_ERROR.get(kind, _FALLBACK)


def _meaning(path: KeyPath, form: type[BaseModel]) -> str:
    """The first sentence that the form says about the key at the end of `path`; empty where it says nothing."""
    field = _owner(path, form).model_fields.get(str(path[-1]))
    sentence = (field.description or "").split(". ")[0].rstrip(".") if field else ""
    return f"{sentence[:1].lower()}{sentence[1:]}"


def _owner(path: KeyPath, form: type[BaseModel]) -> type[BaseModel]:
    """The form that has the key at the end of `path`; BaseModel, without keys, where any key is allowed."""
    for step in path[:-1]:
        field = form.model_fields.get(str(step))
        if field is not None:
            form = _form_inside(field.annotation) or BaseModel
    return form


def _form_inside(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    inside = map(_form_inside, getattr(annotation, "__args__", ()))
    return next(filter(None, inside), None)
