"""The constants of the tolerance, read from `expected/tolerance.yaml`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from functools import cached_property
from pathlib import Path
from statistics import NormalDist
from typing import Annotated, Any

from pydantic import Field

from scanproof.numbers.expected.problems import ExpectedError, FileProblem
from scanproof.numbers.expected.schema import Count, Form, Text
from scanproof.numbers.expected.validation import FormFile, read_form
from scanproof.numbers.expected.yaml_lines import KeyPath, YamlFile, shorten

FILE_NAME = "tolerance.yaml"

FIRST_GATE, SECOND_GATE, JOINT, DRIFT = 0.5, 0.3, 0.1, 0.1
"""Shares of the gates in the suite's rate of false alarms; `docs/decisions/0010-second-gate.md` says why."""
MODELS = 100
"""Number of models that the budget of the joint tests is divided by; the actual number, if that is larger."""


@dataclass(frozen=True, kw_only=True)
class Constants:
    """The constants of every allowance; `docs/decisions/0001-tolerance.md` says why."""

    false_alarm_rate: float
    """Probability that a night of correct runs reports any number."""
    checks: int
    """Numbers that share this rate: the capacity of `expected/`."""
    power: float
    """Probability with which a change of the size `detectable` is caught."""
    flip_rate_same: float
    """Share of documents whose answer differs between two correct runs of lm-eval releases."""
    flip_rate_other: float
    """The same when the printed number comes from another harness, or from one that is not named."""
    perplexity_sd: float
    """Standard deviation of the difference between the log perplexities of two correct runs ..."""
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
        """False alarm rate of each joint test of each of `models` models.

        There are two of a model, against its baseline and against what was printed, and one of the night; the models'
        tests of a kind have as much together as the night's.
        """
        return JOINT / 3 * self.false_alarm_rate / max(MODELS, models)

    @property
    def night_level(self) -> float:
        """False alarm rate of the joint test over everything that a night measured."""
        return JOINT / 3 * self.false_alarm_rate

    def drift_level(self, series: int) -> float:
        """False alarm rate of the drift test of one of `series` series."""
        return DRIFT * self.false_alarm_rate / max(self.checks + MODELS, series)

    @cached_property
    def z(self) -> float:
        """Two-sided normal quantile of `level`."""
        return NormalDist().inv_cdf(1 - self.level / 2)


Share = Annotated[float, Field(gt=0, lt=1)]


class ConstantForm(Form):
    """A constant that `scanproof calibrate` estimates from the published numbers."""

    value: Share = Field(description="The constant, between 0 and 1.")
    calibration: dict[str, Any] = Field(description="Where it comes from, as `scanproof calibrate` prints it.")


class FlipRateForm(Form):
    """Shares of documents whose answer differs between two correct runs."""

    same: ConstantForm = Field(description="Value and calibration between two runs of lm-eval releases.")
    other: ConstantForm = Field(description="Value and calibration for numbers from another harness.")


class PerplexityForm(Form):
    """How perplexities differ between two correct runs."""

    documents: Count = Field(description="Number of documents that relative_sd holds for.")
    relative_sd: ConstantForm = Field(description="Standard deviation of the difference of the log perplexities.")


class ToleranceForm(Form):
    """The content of tolerance.yaml; see `Constants`."""

    # Smaller rates of a single number cannot be told from none in double precision.
    false_alarm_rate: float = Field(ge=1e-6, lt=1, description="A number between 0 and 1.")
    checks: int = Field(ge=1, le=1_000_000, description="A whole number.")
    power: float = Field(gt=0.5, lt=1, description="A number between 0.5 and 1.")
    flip_rate: FlipRateForm = Field(description="Same and other.")
    perplexity: PerplexityForm = Field(description="Documents and relative_sd.")
    # Names alone: how many numbers a document has, its document.yaml says.
    documents: list[Text] = Field(
        default_factory=list,
        min_length=1,
        description="Folders of all documents, so that one that is lost is noticed; without the key nobody asks.",
    )


def _check_calibrated(file: YamlFile, path: KeyPath, constant: ConstantForm) -> Iterator[FileProblem]:
    """A constant that is not what the calibration beside it gives: a digit or a zero that slipped."""
    place, said = (*path, "calibration", "value_is"), constant.calibration.get("value_is")
    if said is None:
        yield file.problem(place, "is missing; write what `scanproof calibrate` prints")
        return
    figure = re.match(r"(0\.[0-9]*[1-9][0-9]*|[1-9][0-9]*e-[0-9]+|[1-9]\.[0-9]+e-[0-9]+), rounded up", str(said))
    if figure is None:
        yield file.problem(place, f"is {shorten(str(said))}; write what `scanproof calibrate` prints")
        return
    exact, value = Decimal(figure[1]), Decimal(repr(constant.value))
    # What is printed is rounded to three digits itself, so that the constant may lie half of its last digit below it.
    unit = Decimal(1).scaleb(exact.adjusted() - 1)
    if not exact - unit / 20 <= value <= exact + unit * Decimal("1.05"):
        message = f"is {constant.value:g}, but the calibration beside it says {shorten(str(said))}; correct one of them"
        yield file.problem((*path, "value"), message)


def load_constants(path: Path) -> Constants:
    """Read the constants in `path`; raises ExpectedError with every problem of the file at once."""
    return make_constants(read_form(path, ToleranceForm))


def make_constants(file: FormFile[ToleranceForm]) -> Constants:
    """The constants in a file that was read; raises ExpectedError with every problem of the file at once."""
    if file.problems:
        raise ExpectedError(file.problems)
    form = file.form
    constants = {
        ("flip_rate", "same"): form.flip_rate.same,
        ("flip_rate", "other"): form.flip_rate.other,
        ("perplexity", "relative_sd"): form.perplexity.relative_sd,
    }
    if problems := [one for path, form_of in constants.items() for one in _check_calibrated(file.yaml, path, form_of)]:
        raise ExpectedError(problems)
    same, other = form.flip_rate.same.value, form.flip_rate.other.value
    if other < same:
        message = "is below flip_rate.same.value; another harness cannot be quieter: write at least the same"
        raise ExpectedError([file.yaml.problem(("flip_rate", "other", "value"), message)])
    return Constants(
        false_alarm_rate=form.false_alarm_rate,
        checks=form.checks,
        power=form.power,
        flip_rate_same=same,
        flip_rate_other=other,
        perplexity_sd=form.perplexity.relative_sd.value,
        perplexity_documents=form.perplexity.documents,
    )
