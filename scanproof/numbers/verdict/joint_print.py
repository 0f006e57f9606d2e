"""All printed numbers of a model together against what was measured: a small shift of every number shows here.

For each accuracy with N documents, N (measured - printed) is the net number of flipped documents plus the rounding of
the print.  The statistic is their sum, in which a number weighs by its documents: no other weights see a shift that is
common to all of them better, because the variance of a number's net flips grows with N.  Between correct runs the net
flips of all numbers are one symmetric Skellam variable, and the roundings are uniform; `net_flips_and_rounding` bounds
their sum.  Pure arithmetic.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist

from scanproof.numbers.expected.constants import Constants
from scanproof.numbers.values import PublishedValue
from scanproof.numbers.verdict.flip_bounds import net_flips_and_rounding, tail_of_flips_and_rounding
from scanproof.numbers.verdict.paired_tests import ComparisonOutcome, PairedComparison, PairedTest
from scanproof.numbers.verdict.remaking import list_terms

LEAST = 2
"""With one number there is nothing that its own gate does not see."""
PRINT = "what was printed"


@dataclass(frozen=True, kw_only=True)
class PrintedTogether:
    """The printed numbers of a model of which each says something that no other does."""

    model: str
    values: tuple[PublishedValue, ...]
    flips: float
    """Expected number of flipped documents between two correct runs."""
    rounding_variance: float
    """Of the sum of the roundings, in documents squared."""

    @property
    def documents(self) -> int:
        return sum(value.documents or 0 for value in self.values)

    def bound(self, tail: float) -> float:
        """Net flips that two correct runs exceed to one side with at most this probability."""
        return net_flips_and_rounding(self.flips, self.rounding_variance, tail)

    def detectable(self, level: float, power: float) -> float:
        """The smallest common shift, as a fraction, that is caught with probability `power`."""
        usual = NormalDist().inv_cdf(power) * math.sqrt(self.flips + self.rounding_variance)
        return (self.bound(level / 2) + usual) / self.documents


def model_of(value: PublishedValue) -> str:
    """What is measured together: a checkpoint, and what is done to it."""
    return f"{value.hub_id} {value.variant}".strip()


def group_printed(values: Iterable[PublishedValue], constants: Constants) -> Mapping[str, PrintedTogether]:
    """Model -> its numbers that can be added up; models with fewer than two are left out.

    Left out are numbers that are known not to come out, and those that repeat others: of several prints of one number
    the one with the most digits stays, of two metrics of one task one, and of a group and its parts the group.
    """
    by_model: dict[str, dict[tuple[str, int], PublishedValue]] = {}
    for value in sorted(filter(can_be_added, values), key=lambda v: (v.half_unit, v.metric, v.id)):
        by_model.setdefault(model_of(value), {}).setdefault((value.task, value.job.num_fewshot), value)
    together = {model: _together(model, drop_parts(list(kept.values())), constants) for model, kept in by_model.items()}
    return {model: numbers for model, numbers in together.items() if len(numbers.values) >= LEAST}


def can_be_added(value: PublishedValue) -> bool:
    """Whether a number is a mean over its documents that a correct run has to reach."""
    refused = value.unrecorded or value.known_discrepancy or value.not_comparable or value.widened
    is_plain_mean = bool(value.parts) and not value.pooled
    return not refused and value.metric != "perplexity" and value.documents is not None and not is_plain_mean


def drop_parts(values: Sequence[PublishedValue]) -> tuple[PublishedValue, ...]:
    """Without the numbers whose documents another number has as well, such as `mmlu_stem` beside `mmlu`."""
    kept: list[tuple[frozenset[str], PublishedValue]] = []
    # Wholes before their parts.
    made_of = ((frozenset(term.task for term in list_terms(value)), value) for value in values)
    for tasks, value in sorted(made_of, key=lambda pair: -len(pair[0])):
        shots = value.job.num_fewshot
        if not any(tasks <= others and shots == other.job.num_fewshot for others, other in kept):
            kept.append((tasks, value))
    names = {value.id for _, value in kept}
    return tuple(value for value in values if value.id in names)


def _together(model: str, values: tuple[PublishedValue, ...], constants: Constants) -> PrintedTogether:
    def rate(value: PublishedValue) -> float:
        return constants.flip_rate_same if value.harness == "same" else constants.flip_rate_other

    counts = [(value, value.documents or 0) for value in values]
    return PrintedTogether(
        model=model,
        values=values,
        flips=math.fsum(rate(value) * n for value, n in counts),
        rounding_variance=math.fsum((n * value.half_unit) ** 2 / 3 for value, n in counts),
    )


def judge_models(
    values: Iterable[PublishedValue], measured: Mapping[str, float], constants: Constants
) -> tuple[PairedComparison, ...]:
    """A comparison for each model of which two numbers or more were measured.

    Args:
        measured: id of a number -> its measured value over all its documents, in the natural unit.
    """
    groups = group_printed((value for value in values if value.id in measured), constants)
    return tuple(_judge(numbers, measured, constants, len(groups)) for numbers in groups.values())


def _judge(
    numbers: PrintedTogether, measured: Mapping[str, float], constants: Constants, models: int
) -> PairedComparison:
    level = constants.joint_level(models)
    net = math.fsum((value.documents or 0) * (measured[value.id] - value.expected) for value in numbers.values)
    p_value = min(1.0, 2 * tail_of_flips_and_rounding(numbers.flips, numbers.rounding_variance, abs(net)))
    changed = p_value <= level
    because = (
        f"{len(numbers.values)} printed numbers of {numbers.documents} documents: net {net:+.1f} documents, "
        f"{100 * net / numbers.documents:+.3f} points on average, {numbers.bound(level / 2):.1f} documents allowed: "
        f"p <= {p_value:.2g}"
    )
    test = PairedTest(
        name="print",
        documents=numbers.documents,
        p_value=p_value,
        level=level,
        changed=changed,
        shift=net / numbers.documents,
        because=because,
    )
    outcome = ComparisonOutcome.CHANGED if changed else ComparisonOutcome.SAME
    return PairedComparison(subject=numbers.model, outcome=outcome, baseline=PRINT, because=because, tests=(test,))
