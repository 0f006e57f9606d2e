"""What leaves tests out of a strict session has to be typed in its call: nobody sees it otherwise."""

from __future__ import annotations

import argparse
import os
import shlex
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Any

import pytest

CHOOSING = {
    "keyword": "-k",
    "deselect": "--deselect",
    "ignore": "--ignore",
    "ignore_glob": "--ignore-glob",
    "lf": "--lf",
    "stepwise": "--sw",
    "inifilename": "-c",
}
"""pytest's options that leave tests out, by name -> how a call says them.  A mark (`-m`) may stand in the ini file."""
OWN = {"python_files": ["test_*.py", "*_test.py"], "python_classes": ["Test"], "python_functions": ["test"]}
"""Ini keys that say by its name what a test is -> what pytest itself says."""
KEYS = (*OWN, "norecursedirs", "testpaths")
"""Ini keys that leave tests out where an option (`-o`) sets them: a project sets them in its ini file."""


def refuse_untyped(config: pytest.Config) -> None:
    """Raise pytest.UsageError where something else than the call of a strict session leaves tests out.

    A test that fails would be gone with it, and the session green.
    """
    found = list_choices(config.option) + list_marks_of_variable(config)
    if not found:
        return
    typed = parse(config, map(str, config.invocation_params.args))
    # Files and folders that are added to those of the call leave nothing out.
    known = [
        *list_choices(typed),
        ("-m", typed_mark(typed)),
        *(choice for choice in found if choice[0] == "" and typed.file_or_dir),
    ]
    for choice in found:
        if choice not in known:
            said = " ".join(filter(None, choice))
            raise pytest.UsageError(
                f"scanproof: {said} leaves tests out of a strict session and is not in its call; "
                f"take it out of {find_source(config, choice)}, or write it in the call"
            )


def list_choices(given: argparse.Namespace) -> list[tuple[str, str]]:
    """What leaves tests out, each as a flag and its value; a file or folder has no flag."""
    choices = [("", str(place)) for place in getattr(given, "file_or_dir", None) or ()]
    for name, flag in CHOOSING.items():
        values = getattr(given, name, None) or ()
        choices += [(flag, "" if value is True else str(value)) for value in as_list(values)]
    # As pytest reads them: the last of a key counts.
    overrides = dict(str(each).partition("=")[::2] for each in getattr(given, "override_ini", None) or ())
    return choices + [("-o", f"{key}={value}") for key, value in overrides.items() if key in KEYS]


def list_marks_of_variable(config: pytest.Config) -> list[tuple[str, str]]:
    """The mark by which a variable chooses: an ini file is the project's own, a variable may have been left behind."""
    mark = typed_mark(parse(config, shlex.split(os.environ.get("PYTEST_ADDOPTS", ""))))
    return [("-m", mark)] if mark and mark == config.option.markexpr else []


def typed_mark(given: argparse.Namespace) -> str:
    """The expression of marks among some arguments."""
    return str(getattr(given, "markexpr", "") or "")


def as_list(values: Any) -> Iterable[Any]:
    """The values of an option that may be given once, or several times, or is a switch."""
    return [values] if isinstance(values, str | bool) else values


def parse(config: pytest.Config, arguments: Iterable[str]) -> argparse.Namespace:
    """Arguments as pytest itself reads them; empty where they cannot be read without others."""
    with suppress(pytest.UsageError):
        return config._parser.parse_known_args(list(arguments), argparse.Namespace())
    return argparse.Namespace(file_or_dir=[])


def find_source(config: pytest.Config, choice: tuple[str, str]) -> str:
    """What says it, in words."""
    if choice in list_marks_of_variable(config) or choice in list_choices(
        parse(config, shlex.split(os.environ.get("PYTEST_ADDOPTS", "")))
    ):
        return "PYTEST_ADDOPTS"
    if choice in list_choices(parse(config, config.getini("addopts"))):
        return f"addopts of {config.inipath}" if config.inipath is not None else "addopts"
    return "the plugin or the conftest.py that sets it"


def list_other_names(config: pytest.Config) -> Iterator[str]:
    """The ini keys by which other files, classes or functions are tests than pytest's own, a line each."""
    for key, own in OWN.items():
        names = list(config.getini(key))
        if not set(own) <= set(names):
            yield f"{key} is {' '.join(names)}: what pytest alone would take for tests may not be collected"
