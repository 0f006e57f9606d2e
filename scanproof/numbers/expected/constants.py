"""The constants of the tolerance, read from `expected/tolerance.yaml`."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import NormalDist
from typing import Any

from scanproof.numbers.expected import yaml_lines
from scanproof.numbers.expected.problems import ExpectedError, Problem
from scanproof.numbers.expected.yaml_lines import Place, Unread, YamlFile

FILE_NAME = "tolerance.yaml"

FIRST_GATE, SECOND_GATE, JOINT, DRIFT = 0.5, 0.3, 0.1, 0.1
"""How the gates share the suite's rate of false alarms; `docs/decisions/0010-second-gate.md` says why."""
MODELS = 100
"""Models that share the budget of the joint tests and of the drift; more of them share it evenly."""


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
        """False alarm rate of one number at the first gate, both sides together."""
        return FIRST_GATE * self.false_alarm_rate / self.checks

    @property
    def second_level(self) -> float:
        """False alarm rate of one number at the second gate, all its tests together."""
        return SECOND_GATE * self.false_alarm_rate / self.checks

    def joint_level(self, models: int) -> float:
        """False alarm rate of one model's joint test, of `models`; the night's own test has as much as all models."""
        return JOINT / 2 * self.false_alarm_rate / max(MODELS, models)

    @property
    def night_level(self) -> float:
        """False alarm rate of the joint test over everything that a night measured."""
        return JOINT / 2 * self.false_alarm_rate

    def drift_level(self, series: int) -> float:
        """False alarm rate of one series over nights, of `series`."""
        return DRIFT * self.false_alarm_rate / max(self.checks + MODELS, series)

    @cached_property
    def z(self) -> float:
        """Two-sided normal quantile of `level`."""
        return NormalDist().inv_cdf(1 - self.level / 2)


_RANGES: dict[Place, tuple[float, float]] = {
    ("false_alarm_rate",): (0, 1),
    ("checks",): (1, math.inf),
    ("power",): (0.5, 1),
    ("flip_rate", "same", "value"): (0, 1),
    ("flip_rate", "other", "value"): (0, 1),
    ("perplexity", "relative_sd", "value"): (0, 1),
    ("perplexity", "documents"): (1, math.inf),
}
_WHOLE: frozenset[Place] = frozenset({("checks",), ("perplexity", "documents")})
_CALIBRATED: tuple[Place, ...] = (("flip_rate", "same"), ("flip_rate", "other"), ("perplexity", "relative_sd"))
_CALIBRATIONS: tuple[Place, ...] = tuple((*place, "calibration") for place in _CALIBRATED)
_SECTIONS: frozenset[Place] = frozenset({("flip_rate",), ("perplexity",)})

Entries = dict[Place, Any]


def load_constants(path: Path) -> Constants:
    """The constants in `path`; raises ExpectedError with every problem of the file at once."""
    data, file = yaml_lines.read(path)
    entries = dict(_entries(data, ()))
    problems = [*file.problems, *_check_numbers(file, entries), *_check_keys(file, entries)]
    if problems:
        raise ExpectedError(problems)
    same, other = entries["flip_rate", "same", "value"], entries["flip_rate", "other", "value"]
    if other < same:
        message = "is below flip_rate.same.value; another harness cannot be quieter: write at least the same"
        raise ExpectedError([file.problem(("flip_rate", "other", "value"), message)])
    return Constants(
        false_alarm_rate=entries["false_alarm_rate",],
        checks=entries["checks",],
        power=entries["power",],
        flip_rate_same=same,
        flip_rate_other=other,
        perplexity_sd=entries["perplexity", "relative_sd", "value"],
        perplexity_documents=entries["perplexity", "documents"],
    )


def _entries(data: Any, place: Place) -> Iterator[tuple[Place, Any]]:
    """Place and value of every mapping entry."""
    if isinstance(data, dict):
        for key, value in data.items():
            yield (*place, key), value
            yield from _entries(value, (*place, key))


def _check_numbers(file: YamlFile, entries: Entries) -> Iterator[Problem]:
    for place, (low, high) in _RANGES.items():
        message = _check_number(place, entries.get(place), low, high)
        if message is not None:
            yield file.problem(place, message)


def _check_number(place: Place, value: Any, low: float, high: float) -> str | None:
    if isinstance(value, Unread):
        return None
    if value is None:
        return "is missing; write a number"
    kind = "whole number" if place in _WHOLE else "number"
    if isinstance(value, bool) or not isinstance(value, int if place in _WHOLE else (int, float)):
        return f"is {value!r}; write a {kind}"
    if not low <= value <= high or (place not in _WHOLE and value in (low, high)):
        return f"is {value!r}; write a {kind} between {low:g} and {high:g}"
    return None


def _check_keys(file: YamlFile, entries: Entries) -> Iterator[Problem]:
    """A constant without its calibration, and keys that nothing reads."""
    for place in _CALIBRATIONS:
        if not isinstance(entries.get(place), (dict, Unread)):
            yield file.problem(place, "is missing; write where the constant comes from (scanproof calibrate prints it)")
    known = {*_RANGES, *_SECTIONS, *_CALIBRATED}
    for place in entries:
        if place not in known and place[:3] not in _CALIBRATIONS:
            yield file.problem(place, "is not a key of the tolerance; remove it")
