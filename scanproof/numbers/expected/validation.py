"""Check a file against its form, and keep what is sound of a file that has mistakes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Generic, TypeVar, get_args, get_origin

from pydantic import BaseModel, TypeAdapter, ValidationError

from scanproof.numbers.expected import yaml_lines
from scanproof.numbers.expected.messages import form_problem, suggest
from scanproof.numbers.expected.problems import ExpectedError, Problem
from scanproof.numbers.expected.yaml_lines import Place, Unread, YamlFile

__all__ = ["Reading", "attempt", "below", "read_form", "read_sound", "suggest", "unsound"]

FormT = TypeVar("FormT", bound=BaseModel)
T = TypeVar("T")


@dataclass(frozen=True)
class Reading(Generic[FormT]):
    """One file, as far as its form is sound."""

    form: FormT
    """Without the keys that are not sound; `has` says which can be used."""
    file: YamlFile
    problems: tuple[Problem, ...] = ()
    places: tuple[Place, ...] = ()
    """Where the form is not sound."""

    def has(self, *keys: str) -> bool:
        """Whether all of these top-level keys are sound, whole, and there or optional."""
        return unsound(type(self.form), self.places).isdisjoint(keys)


def read_sound(path: Path, form: type[FormT]) -> Reading[FormT]:
    """Read `path` as `form`; raises ExpectedError only when it cannot be read, or is not YAML."""
    data, file = yaml_lines.read(path)
    try:
        return Reading(form.model_validate(data), file, file.problems)
    except ValidationError as error:
        found = error.errors(include_url=False, include_context=True, include_input=True)
    # Of what could not be read the file has said so already.
    said = (form_problem(file, item, form) for item in found if not isinstance(item["input"], Unread))
    problems = (*file.problems, *dict.fromkeys(said))
    places = tuple(item["loc"] for item in found)
    return Reading(_salvage(form, data, places), file, problems, places)


def read_form(path: Path, form: type[FormT]) -> tuple[FormT, YamlFile]:
    """Read `path` as `form`; raises ExpectedError with every problem of the file at once."""
    reading = read_sound(path, form)
    if reading.problems:
        raise ExpectedError(reading.problems)
    return reading.form, reading.file


def unsound(form: type[BaseModel], places: Iterable[Place]) -> frozenset[str]:
    """The keys of `form` that are not sound when these places in it are not."""
    return frozenset(key for place in places for key in ([str(place[0])] if place else form.model_fields))


def below(places: Iterable[Place]) -> Mapping[str | int, list[Place]]:
    """First step -> the rest of the places that begin with it."""
    found = defaultdict(list)
    for place in places:
        if place:
            found[place[0]].append(place[1:])
    return found


def _salvage(form: type[FormT], data: Any, places: Sequence[Place]) -> FormT:
    """`data` as a form that lacks what is not sound; of its lists, what is sound of each entry."""
    given = data if isinstance(data, dict) else {}
    broken, deeper = unsound(form, places), below(places)
    kept: dict[str, Any] = {}
    for name in form.model_fields:
        entry = _entry_form(form, name)
        if name not in broken:
            if name in given:
                kept[name] = _adapter(form, name).validate_python(given[name])
        elif entry is not None:
            rows, inside = given.get(name), below(deeper.get(name, ()))
            rows = rows if isinstance(rows, list) else []
            kept[name] = [_salvage(entry, row, inside.get(number, ())) for number, row in enumerate(rows)]
    return form.model_construct(**kept)


@cache
def _adapter(form: type[BaseModel], name: str) -> TypeAdapter[Any]:
    annotation: Any = form.model_fields[name].annotation
    return TypeAdapter(annotation)


@cache
def _entry_form(form: type[BaseModel], name: str) -> type[BaseModel] | None:
    """The form of the entries of a list; None for other keys."""
    annotation = form.model_fields[name].annotation
    entries = get_args(annotation) if get_origin(annotation) is list else ()
    return next((entry for entry in entries if isinstance(entry, type) and issubclass(entry, BaseModel)), None)


def attempt(problems: list[Problem], function: Callable[..., T], *arguments: Any) -> T | None:
    """What `function` returns; None when it raises ExpectedError, whose problems are then added."""
    try:
        return function(*arguments)
    except ExpectedError as error:
        problems.extend(error.problems)
        return None
