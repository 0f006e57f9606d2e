"""The constants of the tolerance, read from `expected/tolerance.yaml`."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import NormalDist
from typing import Any

import yaml

from scanproof.problems import ExpectedError, Problem

FILE_NAME = "tolerance.yaml"


@dataclass(frozen=True, kw_only=True)
class Constants:
    """What every allowance is made from; `docs/decisions/0001-tolerance.md` says why."""

    false_alarm_rate: float
    """Probability that a night of correct runs reports any number at all."""
    checks: int
    """Numbers that share this rate: the capacity of `expected/`."""
    power: float
    """Probability with which a change of the size `detectable` is caught."""
    flip_rate_same: float
    """Share of documents whose answer differs between two correct runs of lm-eval releases."""
    flip_rate_other: float
    """The same when the printed number comes from another harness, or from one that is not named."""
    perplexity_sd: float
    """Standard deviation of the difference of two correct runs' log perplexity, ..."""
    perplexity_documents: int
    """... over this number of documents."""

    @cached_property
    def level(self) -> float:
        """False alarm rate of one number, both sides together."""
        return self.false_alarm_rate / self.checks

    @cached_property
    def z(self) -> float:
        """Two-sided normal quantile of `level`."""
        return NormalDist().inv_cdf(1 - self.level / 2)


_RANGES: dict[str, tuple[float, float]] = {
    "false_alarm_rate": (0, 1),
    "checks": (1, math.inf),
    "power": (0.5, 1),
    "flip_rate.same.value": (0, 1),
    "flip_rate.other.value": (0, 1),
    "perplexity.relative_sd.value": (0, 1),
    "perplexity.documents": (1, math.inf),
}
_WHOLE = frozenset({"checks", "perplexity.documents"})
_CALIBRATED = ("flip_rate.same", "flip_rate.other", "perplexity.relative_sd")
_SECTIONS = frozenset({"flip_rate", "perplexity"})


def load_constants(path: Path) -> Constants:
    """The constants in `path`; raises ExpectedError with every problem of the file at once."""
    entries = _read(path)
    problems: list[Problem] = []
    values: dict[str, float] = {}
    for key, (low, high) in _RANGES.items():
        value = entries.get(key, (None, 1))[0]
        problem = _check_number(key, value, low, high)
        if problem is None:
            values[key] = value
        else:
            problems.append(Problem(str(path), _line(entries, key), key, problem))
    problems += _check_keys(path, entries)
    if not problems and values["flip_rate.other.value"] < values["flip_rate.same.value"]:
        key = "flip_rate.other.value"
        message = "is below flip_rate.same.value; another harness cannot be quieter: write at least the same"
        problems.append(Problem(str(path), _line(entries, key), key, message))
    if problems:
        raise ExpectedError(problems)
    return Constants(
        false_alarm_rate=values["false_alarm_rate"],
        checks=int(values["checks"]),
        power=values["power"],
        flip_rate_same=values["flip_rate.same.value"],
        flip_rate_other=values["flip_rate.other.value"],
        perplexity_sd=values["perplexity.relative_sd.value"],
        perplexity_documents=int(values["perplexity.documents"]),
    )


Entries = dict[str, tuple[Any, int]]


def _read(path: Path) -> Entries:
    """Dotted key -> (value, line) of every mapping entry of the file."""
    try:
        loader = yaml.SafeLoader(path.read_text(encoding="utf-8"))
    except OSError as error:
        message = f"cannot be read ({error.strerror}); it holds the constants of the tolerance"
        raise ExpectedError([Problem(str(path), 1, "", message)]) from error
    try:
        node = loader.get_single_node()
        return dict(_entries(loader, node, ""))
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise ExpectedError([Problem(str(path), line, "", f"is not YAML: {error.problem}")]) from error
    finally:
        loader.dispose()


def _entries(loader: Any, node: Any, prefix: str) -> Iterator[tuple[str, tuple[Any, int]]]:
    if not isinstance(node, yaml.MappingNode):
        return
    for key_node, value_node in node.value:
        key = f"{prefix}{key_node.value}"
        yield key, (loader.construct_object(value_node, deep=True), key_node.start_mark.line + 1)
        yield from _entries(loader, value_node, key + ".")


def _line(entries: Entries, key: str) -> int:
    """Line of the key, or of the nearest enclosing key that is there."""
    while key and key not in entries:
        key = key.rpartition(".")[0]
    return entries[key][1] if key else 1


def _check_number(key: str, value: Any, low: float, high: float) -> str | None:
    if value is None:
        return "is missing; write a number"
    kind = "whole number" if key in _WHOLE else "number"
    if isinstance(value, bool) or not isinstance(value, int if key in _WHOLE else (int, float)):
        return f"is {value!r}; write a {kind}"
    if not low <= value <= high or (key not in _WHOLE and value in (low, high)):
        return f"is {value!r}; write a {kind} between {low:g} and {high:g}"
    return None


def _check_keys(path: Path, entries: Entries) -> Iterator[Problem]:
    """A constant without its calibration, and keys that nothing reads."""
    for key in _CALIBRATED:
        if not isinstance(entries.get(f"{key}.calibration", (None, 1))[0], dict):
            message = "is missing; write where the constant comes from (scanproof calibrate prints it)"
            yield Problem(str(path), _line(entries, f"{key}.calibration"), f"{key}.calibration", message)
    known = {*_RANGES, *_SECTIONS, *_CALIBRATED, *(f"{key}.calibration" for key in _CALIBRATED)}
    for key, (_, line) in entries.items():
        if key not in known and ".calibration." not in key:
            yield Problem(str(path), line, key, "is not a key of the tolerance; remove it")
