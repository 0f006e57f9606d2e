"""Estimate the constants of the tolerance from pairs of printed numbers that should be the same.

`same`: the paper's number and its reproduction in one document.  `other`: one model and task in two documents, where
one of them used another harness or does not name it.  The likelihood of a flip rate is exact for the model of
`scanproof.numbers.verdict.flip_bounds`, and includes rounding: a printed number stands for every count of documents
that rounds to it.

Models differ in their flip rates by more than chance.  `same` is the rate that keeps the rate of false alarms over
models as different as those of the pairs.  `other` is `same` times the upper limit of the ratio of the two, model by
model.  The deviation of perplexities is the upper limit of its estimate.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import NormalDist
from typing import TYPE_CHECKING, Any

from scanproof.numbers.audit import rounding
from scanproof.numbers.audit.likelihood import (
    CONFIDENCE,
    RATIOS,
    Spread,
    combined,
    deviation_curve,
    effective_rate,
    fit_spread,
    flip_curve,
    limits,
    ratio_curve,
)
from scanproof.numbers.values import PublishedValue
from scanproof.numbers.verdict.flip_bounds import net_flips
from scanproof.numbers.verdict.tolerance import Constants

if TYPE_CHECKING:
    from scanproof.numbers.audit.likelihood import Curve
    from scanproof.numbers.expected.reader import Expected

OUTLIER_LEVEL = 0.01
"""Probability that the rule for outliers excludes any pair of a correct calibration."""
PERPLEXITY_DOCUMENTS = 5153
"""Documents of lambada_openai, the only task of the documents with a perplexity."""


@dataclass(frozen=True)
class PrintedPair:
    """Two printed numbers that should be the same."""

    first: PublishedValue
    second: PublishedValue
    """The one with more digits."""

    @property
    def name(self) -> str:
        """The ids of both."""
        return f"{self.first.id} | {self.second.id}"

    @property
    def documents(self) -> int:
        """Documents behind both numbers; raises ValueError when unknown."""
        n = self.first.documents or self.second.documents
        if n is None:
            raise ValueError(f"{self.name}: the number of documents is unknown")
        return n


@dataclass(frozen=True)
class Estimate:
    """One constant, and what it was estimated from."""

    exact: float
    figures: tuple[tuple[str, float], ...]
    """Named figures that it was computed from."""
    pairs: int
    excluded: tuple[tuple[str, str], ...]
    """(pair, reason)."""
    method: str

    @property
    def value(self) -> float:
        """The constant: rounded up to two digits."""
        unit = 10.0 ** (math.floor(math.log10(self.exact)) - 1)
        return float(f"{math.ceil(self.exact / unit - 1e-9) * unit:.6g}")


@dataclass(frozen=True)
class Calibration:
    """All calibrated constants."""

    same: Estimate
    other: Estimate
    perplexity: Estimate


def calibrate(expected: Expected) -> Calibration:
    """Estimate the constants from the printed pairs; raises ValueError when a kind of pair does not occur."""
    values = [value for value in expected.values if value.origin != "recorded"]
    pairs = list(paper_pairs(values))
    shares = [pair for pair in pairs if pair.first.counts_documents]
    kept, excluded = _without_outliers(shares, _flip_curve, flips_explain)
    models = _by_model(kept)
    spread = fit_spread(list(models.values()))
    same = _same(expected.constants.level, spread, models, len(kept), excluded)
    other = _other([pair for pair in cross_pairs(values) if pair.first.counts_documents], same, spread, models)
    perplexity = _perplexity_sd([pair for pair in pairs if pair.first.metric == "perplexity"])
    return Calibration(same, other, perplexity)


def paper_pairs(values: Iterable[PublishedValue]) -> Iterator[PrintedPair]:
    """The paper's number and its reproduction, in one document that names its lm-eval release."""
    by_origin: dict[tuple[str, ...], dict[str, PublishedValue]] = {}
    for value in values:
        if value.harness == "same" and value.origin in ("paper", "reproduced"):
            by_origin.setdefault((value.document, *_measurement(value)), {})[value.origin] = value
    for pair in by_origin.values():
        if len(pair) == 2:
            yield PrintedPair(pair["paper"], pair["reproduced"])


def cross_pairs(values: Iterable[PublishedValue]) -> Iterator[PrintedPair]:
    """A reproduction on a named release, and the same measurement in a document with another harness or none named."""
    groups: dict[tuple[str, ...], list[PublishedValue]] = {}
    for value in values:
        groups.setdefault(_measurement(value), []).append(value)
    for group in groups.values():
        for first, second in combinations(group, 2):
            other, named = sorted((first, second), key=lambda value: value.harness == "same")
            differ = other.harness != "same" and named.harness == "same"
            # The second print of a number is not a second measurement.
            if differ and named.origin == "reproduced" and not (other.suffix or named.suffix):
                yield PrintedPair(other, named)


def _measurement(value: PublishedValue) -> tuple[str, ...]:
    return value.hub_id.lower(), value.task, value.metric, str(value.job.num_fewshot)


def _same(
    level: float, spread: Spread, models: Mapping[str, Curve], pairs: int, excluded: tuple[tuple[str, str], ...]
) -> Estimate:
    pooled = limits(combined(models.values()))
    figures = (
        ("median_of_models", spread.median),
        ("sd_of_logarithm", spread.sd),
        ("pooled_most_likely", pooled[0]),
    )
    method = (
        "maximum likelihood of a log-normal spread of flip rates over models; the rate at which the bound is "
        f"exceeded with probability {level:g} by all models together"
    )
    return Estimate(effective_rate(spread, level), figures, pairs, excluded, method)


def _other(pairs: Sequence[PrintedPair], same: Estimate, spread: Spread, models: Mapping[str, Curve]) -> Estimate:
    kept, excluded = _without_outliers(pairs, _flip_curve, flips_explain)
    numerators = _by_model(kept)
    denominators = [models.get(model) for model in numerators]
    ratio, low, high = limits(ratio_curve(list(numerators.values()), denominators, spread), RATIOS)
    figures = (("ratio_most_likely", ratio), ("ratio_lower_limit", low), ("ratio_upper_limit", high))
    method = (
        f"the rate of the same harness times the upper {CONFIDENCE:.0%} limit of the ratio of both, model by model; "
        "not less than that rate"
    )
    return Estimate(same.exact * max(1.0, high), figures, len(kept), excluded, method)


def _perplexity_sd(pairs: Sequence[PrintedPair]) -> Estimate:
    kept, excluded = _without_outliers(pairs, _perplexity_curve, noise_explains)
    best, low, high = limits(combined(_perplexity_curve(pair) for pair in kept))
    figures = (("most_likely", best), ("lower_limit", low), ("upper_limit", high))
    method = (
        "maximum likelihood of a normal difference of log perplexity, seen through the paper's rounding; "
        f"its upper {CONFIDENCE:.0%} limit"
    )
    return Estimate(high, figures, len(kept), excluded, method)


def _by_model(pairs: Iterable[PrintedPair]) -> dict[str, Curve]:
    curves: dict[str, Curve] = {}
    for pair in pairs:
        curve = _flip_curve(pair)
        model = pair.first.hub_id
        curves[model] = curves[model] + curve if model in curves else curve
    return curves


def _flip_curve(pair: PrintedPair) -> Curve:
    n = pair.documents
    return flip_curve(rounding.nearest_counts(pair.first, n), rounding.nearest_counts(pair.second, n), n)


def _perplexity_curve(pair: PrintedPair) -> Curve:
    low, high = (math.log(edge / pair.second.expected) for edge in rounding.interval(pair.first))
    return deviation_curve(low, high)


def flips_explain(pair: PrintedPair, flip_rate: float, tail: float) -> tuple[float, str]:
    """The distance of the pair, in units of what `flip_rate` explains, and in words."""
    n = pair.documents
    nearest = min(
        abs(a - b) for a in rounding.nearest_counts(pair.first, n) for b in rounding.nearest_counts(pair.second, n)
    )
    bound = net_flips(flip_rate * n, tail)
    return (
        nearest / bound,
        f"{nearest} of {n} documents apart or more, {bound:.1f} of them explained",
    )


def noise_explains(pair: PrintedPair, sd: float, tail: float) -> tuple[float, str]:
    """The distance of two perplexities, in units of what the deviation `sd` explains, and in words."""
    low, high = (math.log(edge / pair.second.expected) for edge in rounding.interval(pair.first))
    nearest = max(0.0, low, -high)
    bound = sd * NormalDist().inv_cdf(1 - tail)
    return (
        nearest / bound,
        f"log perplexities {nearest:.2g} apart or more, {bound:.2g} of it explained",
    )


def _without_outliers(
    pairs: Sequence[PrintedPair],
    curve: Callable[[PrintedPair], Curve],
    explain: Callable[[PrintedPair, float, float], tuple[float, str]],
) -> tuple[list[PrintedPair], tuple[tuple[str, str], ...]]:
    """Drop the worst pair, as long as the rate that is fitted to all others does not explain it.

    Returns the remaining pairs, and (pair, reason) for the dropped ones.  Raises ValueError without any pairs.
    """
    if not pairs:
        raise ValueError("no pair of printed numbers to calibrate from")
    tail = OUTLIER_LEVEL / len(pairs) / 2
    curves = {pair: curve(pair) for pair in pairs}
    kept, excluded = list(pairs), []
    while len(kept) > 1:
        total = combined(curves[pair] for pair in kept)
        fits = {pair: limits(total - curves[pair])[0] for pair in kept}
        worst = max(kept, key=lambda pair: explain(pair, fits[pair], tail)[0])
        ratio, because = explain(worst, fits[worst], tail)
        if ratio <= 1:
            break
        kept.remove(worst)
        excluded.append((worst.name, because))
    return kept, tuple(excluded)


def calibration_yaml(calibration: Calibration, date: str) -> str:
    """The calibrated sections of `tolerance.yaml`, as text; `date` is the day of the calibration."""
    import yaml

    sections = {
        "flip_rate": {
            "same": _entry(calibration.same, date, "paper against reproduction, within one document"),
            "other": _entry(calibration.other, date, "the same number in a document that does not name its harness"),
        },
        "perplexity": {
            "documents": PERPLEXITY_DOCUMENTS,
            "relative_sd": _entry(calibration.perplexity, date, "paper against reproduction, perplexities"),
        },
    }
    return str(yaml.safe_dump(sections, sort_keys=False, width=108, allow_unicode=True))


def _entry(estimate: Estimate, date: str, pairs: str) -> dict[str, Any]:
    return {
        "value": estimate.value,
        "calibration": {
            "pairs": f"{estimate.pairs}: {pairs}",
            "excluded": [{"pair": pair, "reason": reason} for pair, reason in estimate.excluded],
            "method": estimate.method,
            **{name: float(f"{figure:.3g}") for name, figure in estimate.figures},
            "value_is": f"{estimate.exact:.3g}, rounded up to two digits",
            "command": "scanproof calibrate",
            "date": date,
        },
    }


def disagreements(calibration: Calibration, constants: Constants) -> tuple[str, ...]:
    """Where `tolerance.yaml` differs from the calibration, in words; empty when they agree."""
    rows = (
        ("flip_rate.same.value", constants.flip_rate_same, calibration.same),
        ("flip_rate.other.value", constants.flip_rate_other, calibration.other),
        ("perplexity.relative_sd.value", constants.perplexity_sd, calibration.perplexity),
    )
    return tuple(
        f"{key} is {used:g}; the pairs give {estimate.value:g}"
        for key, used, estimate in rows
        if not math.isclose(used, estimate.value, rel_tol=1e-6)
    )
