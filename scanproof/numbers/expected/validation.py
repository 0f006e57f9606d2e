"""Check a file against its form, and keep what is sound of a file that has mistakes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Generic, TypeVar

from pydantic import BaseModel, TypeAdapter, ValidationError

from scanproof.numbers.expected.messages import form_problem
from scanproof.numbers.expected.problems import ExpectedError, FileProblem
from scanproof.numbers.expected.yaml_lines import UNREAD, YamlFile, read_yaml

FormT = TypeVar("FormT", bound=BaseModel)
T = TypeVar("T")


@dataclass(frozen=True)
class FormFile(Generic[FormT]):
    """One file, read as its form."""

    form: FormT
    """UNREAD stands for each key that is not sound."""
    yaml: YamlFile
    problems: tuple[FileProblem, ...]
    """What is wrong with its YAML and with its form."""


def read_form(path: Path, form: type[FormT]) -> FormFile[FormT]:
    """Read `path` as `form`; raises ExpectedError when it cannot be read at all, or is not YAML."""
    yaml = read_yaml(path)
    try:
        return FormFile(form.model_validate(yaml.data), yaml, yaml.problems)
    except ValidationError as error:
        mistakes = error.errors(include_url=False)
    # The file has its own problem for each entry that is UNREAD.
    problems = [form_problem(yaml, mistake, form) for mistake in mistakes if mistake["input"] is not UNREAD]
    return FormFile(keep_sound(form, yaml.data), yaml, (*yaml.problems, *dict.fromkeys(problems)))


def keep_sound(form: type[FormT], data: Any) -> FormT:
    """`data` as a form in which UNREAD stands for each key that is not sound."""
    try:
        return form.model_validate(data)
    except ValidationError as error:
        places = [mistake["loc"] for mistake in error.errors(include_url=False, include_context=False)]
    unsound = form.model_fields if () in places else {place[0] for place in places}
    fields: dict[str, Any] = {}
    for name in form.model_fields:
        if name in unsound:
            fields[name] = UNREAD
        elif name in data:
            fields[name] = _adapter(form, name).validate_python(data[name])
    return form.model_construct(**fields)


def is_sound(form: BaseModel, *keys: str) -> bool:
    """Whether all of these keys can be used."""
    return all(getattr(form, key) is not UNREAD for key in keys)


@cache
def _adapter(form: type[BaseModel], name: str) -> TypeAdapter[Any]:
    annotation: Any = form.model_fields[name].annotation
    return TypeAdapter(annotation)


def attempt(problems: list[FileProblem], function: Callable[..., T], *arguments: Any) -> T | None:
    """What `function` returns; None when it raises ExpectedError, whose problems are then added to `problems`."""
    try:
        return function(*arguments)
    except ExpectedError as error:
        problems.extend(error.problems)
        return None
