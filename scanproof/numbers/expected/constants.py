"""The constants of the tolerance, read from `expected/tolerance.yaml`."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import NormalDist
from typing import Annotated, Any

from pydantic import Field

from scanproof.numbers.expected.problems import ExpectedError
from scanproof.numbers.expected.schema import Count, Form
from scanproof.numbers.expected.validation import read_form

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
        """False alarm rate of the joint test of each of `models` models; the night has as much as all of them."""
        return JOINT / 2 * self.false_alarm_rate / max(MODELS, models)

    @property
    def night_level(self) -> float:
        """False alarm rate of the joint test over everything that a night measured."""
        return JOINT / 2 * self.false_alarm_rate

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

    false_alarm_rate: Share = Field(description="A number between 0 and 1.")
    checks: Count = Field(description="A whole number.")
    power: float = Field(gt=0.5, lt=1, description="A number between 0.5 and 1.")
    flip_rate: FlipRateForm = Field(description="Same and other.")
    perplexity: PerplexityForm = Field(description="Documents and relative_sd.")


def load_constants(path: Path) -> Constants:
    """Read the constants in `path`; raises ExpectedError with every problem of the file at once."""
    file = read_form(path, ToleranceForm)
    if file.problems:
        raise ExpectedError(file.problems)
    form = file.form
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
