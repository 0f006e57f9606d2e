"""Where the constants of the tolerance come from: pairs of printed numbers that should be the same number.

`same`: the paper's number and its reproduction in one document.  `other`: one model and task in two documents
of which one used another harness or names none.  The likelihood of the flip rate is exact for the model of
`scanproof.flips` and for print: each number stands for every count of documents that prints as it does.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from random import Random
from statistics import NormalDist
from typing import TYPE_CHECKING, Any

from scanproof import printed
from scanproof.flips import net_flips
from scanproof.tolerance import MASS_TASKS, Constants
from scanproof.values import PublishedValue

if TYPE_CHECKING:
    from scanproof.expected import Expected

OUTLIER_LEVEL = 0.01
"""Probability that the rule for outliers excludes any pair of a calibration without faults."""
CONFIDENCE = 0.95
"""One-sided: the constant is the upper limit, because a rate set too low breaks the promise of the suite."""
RESAMPLES = 4000
GRID = tuple(10 ** (-5 + 5 * step / 1500) for step in range(1400))
"""Candidate flip rates and relative deviations, 0.8% apart."""
PERPLEXITY_DOCUMENTS = 5153
"""Documents of lambada_openai, the only task of the documents with a perplexity."""


@dataclass(frozen=True)
class Pair:
    """Two printed numbers that should be one."""

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

    best: float
    low: float
    high: float
    """One-sided limits, each at CONFIDENCE."""
    pairs: int
    excluded: tuple[tuple[str, str], ...]
    """(pair, reason)."""
    method: str

    @property
    def value(self) -> float:
        """The constant: the upper limit, rounded up to two digits."""
        unit = 10.0 ** (math.floor(math.log10(self.high)) - 1)
        return float(f"{math.ceil(self.high / unit - 1e-9) * unit:.6g}")


@dataclass(frozen=True)
class Calibration:
    """Every calibrated constant."""

    same: Estimate
    other: Estimate
    perplexity: Estimate


def calibrate(expected: Expected) -> Calibration:
    """Estimate the constants from the printed pairs; raises ValueError when a kind of pair does not occur."""
    pairs = tuple(paper_pairs(expected.values))
    cross = tuple(cross_pairs(expected.values))
    same = _flip_rate([pair for pair in pairs if _is_share(pair)], by_model=True)
    other = _flip_rate([pair for pair in cross if _is_share(pair)], by_model=False)
    if other.high < same.high:
        method = f"{other.method}; below the rate of the same harness, which is used in its place"
        other = Estimate(other.best, other.low, same.high, other.pairs, other.excluded, method)
    perplexity = _perplexity_sd([pair for pair in pairs if pair.first.metric == "perplexity"])
    return Calibration(same, other, perplexity)


def paper_pairs(values: Iterable[PublishedValue]) -> Iterator[Pair]:
    """The paper's number and its reproduction, in one document that names its lm-eval release."""
    found: dict[tuple[str, ...], dict[str, PublishedValue]] = {}
    for value in values:
        if value.harness == "same" and value.origin in ("paper", "reproduced"):
            found.setdefault((value.document, *_what(value)), {})[value.origin] = value
    for pair in found.values():
        if len(pair) == 2:
            yield Pair(pair["paper"], pair["reproduced"])


def cross_pairs(values: Iterable[PublishedValue]) -> Iterator[Pair]:
    """A reproduction on a named release, and the same thing in a document with another harness or none named.

    A row filed under another checkpoint than its name says was identified by these very numbers: no evidence.
    """
    found: dict[tuple[str, ...], list[PublishedValue]] = {}
    for value in values:
        found.setdefault(_what(value), []).append(value)
    for group in found.values():
        for first, second in combinations(group, 2):
            other, named = sorted((first, second), key=lambda value: value.harness == "same")
            own_name = _last_part(other.model) == _last_part(other.hub_id)
            if other.harness != "same" and named.origin == "reproduced" and own_name:
                yield Pair(other, named)


def _what(value: PublishedValue) -> tuple[str, ...]:
    return value.hub_id.lower(), value.task, value.metric, str(value.job.num_fewshot)


def _last_part(name: str) -> str:
    return name.rsplit("/", 1)[-1].lower()


def _is_share(pair: Pair) -> bool:
    value = pair.first
    return value.metric != "perplexity" and value.task not in (*MASS_TASKS, "average")


def _flip_rate(pairs: Sequence[Pair], *, by_model: bool) -> Estimate:
    curves = {pair.name: _flip_curve(pair) for pair in pairs}
    kept, excluded = _without_outliers(pairs, curves, flips_explain)
    best, low, high = _limits([curves[pair.name] for pair in kept])
    method = "maximum likelihood, Skellam net flips between every pair of counts that prints so; "
    if by_model:
        low, high = _bootstrap(kept, curves)
        method += f"limits from {RESAMPLES} bootstrap samples of models"
    else:
        method += "limits from the likelihood ratio"
    return Estimate(best, low, high, len(kept), excluded, method)


def _perplexity_sd(pairs: Sequence[Pair]) -> Estimate:
    curves = {pair.name: _perplexity_curve(pair) for pair in pairs}
    kept, excluded = _without_outliers(pairs, curves, noise_explains)
    best, low, high = _limits([curves[pair.name] for pair in kept])
    method = "maximum likelihood, normal difference of log perplexity, seen through the paper's rounding; "
    return Estimate(best, low, high, len(kept), excluded, method + "limits from the likelihood ratio")


def _flip_curve(pair: Pair) -> Any:
    """Log likelihood of each flip rate of GRID, given the pair; float64 array [grid]."""
    import numpy as np
    from scipy.special import ive

    n = pair.documents
    seconds = printed.nearest_counts(pair.second, n)
    distances = [abs(a - b) for a in printed.nearest_counts(pair.first, n) for b in seconds]
    distance, times = np.unique(distances, return_counts=True)
    flips = np.asarray(GRID) * n
    likelihood = times @ ive(distance[:, None], flips[None, :]) / len(seconds)
    return np.log(np.maximum(likelihood, 1e-300))


def _perplexity_curve(pair: Pair) -> Any:
    """Log likelihood of each relative deviation of GRID, given the pair; float64 array [grid]."""
    import numpy as np
    from scipy.special import ndtr

    low, high = (math.log(edge / pair.second.expected) for edge in printed.interval(pair.first))
    sd = np.asarray(GRID)
    return np.log(np.maximum(ndtr(high / sd) - ndtr(low / sd), 1e-300))


def flips_explain(pair: Pair, flip_rate: float, tail: float) -> tuple[float, str]:
    """How far the pair differs in units of what `flip_rate` explains, and in words."""
    n = pair.documents
    nearest = min(
        abs(a - b)
        for a in printed.nearest_counts(pair.first, n)
        for b in printed.nearest_counts(pair.second, n)
    )
    bound = net_flips(flip_rate * n, tail)
    return (
        nearest / bound,
        f"{nearest} of {n} documents apart or more; {bound:.1f} explained by the other pairs",
    )


def noise_explains(pair: Pair, sd: float, tail: float) -> tuple[float, str]:
    low, high = (math.log(edge / pair.second.expected) for edge in printed.interval(pair.first))
    nearest = max(0.0, low, -high)
    bound = sd * NormalDist().inv_cdf(1 - tail)
    return (
        nearest / bound,
        f"log perplexities {nearest:.2g} apart or more; {bound:.2g} explained by the others",
    )


def _without_outliers(
    pairs: Sequence[Pair], curves: dict[str, Any], explain: Callable[[Pair, float, float], tuple[float, str]]
) -> tuple[list[Pair], tuple[tuple[str, str], ...]]:
    """Drop the worst pair that the rate fitted to all others does not explain, until none is left."""
    if not pairs:
        raise ValueError("no pair of printed numbers to calibrate from")
    tail = OUTLIER_LEVEL / len(pairs) / 2
    kept, excluded = list(pairs), []
    while len(kept) > 1:
        fits = {pair.name: _limits([curves[p.name] for p in kept if p is not pair])[0] for pair in kept}
        worst = max(kept, key=lambda pair: explain(pair, fits[pair.name], tail)[0])
        ratio, because = explain(worst, fits[worst.name], tail)
        if ratio <= 1:
            break
        kept.remove(worst)
        excluded.append((worst.name, because))
    return kept, tuple(excluded)


def _limits(curves: Sequence[Any]) -> tuple[float, float, float]:
    """Most likely candidate of GRID and its one-sided limits by the likelihood ratio."""
    total = sum(curves)
    best = int(total.argmax())
    drop = 0.5 * NormalDist().inv_cdf(CONFIDENCE) ** 2
    inside = [step for step in range(len(GRID)) if total[step] >= total[best] - drop]
    return GRID[best], GRID[inside[0]], GRID[inside[-1]]


def _bootstrap(pairs: Sequence[Pair], curves: dict[str, Any]) -> tuple[float, float]:
    """One-sided limits over samples of models: the pairs of one model share a checkpoint and its quirks."""
    models = sorted({pair.first.hub_id for pair in pairs})
    sums = [sum(curves[pair.name] for pair in pairs if pair.first.hub_id == model) for model in models]
    random = Random(0)
    rates = []
    for _ in range(RESAMPLES):
        drawn = sum(sums[int(random.random() * len(models))] for _ in models)
        rates.append(GRID[int(drawn.argmax())])
    rates.sort()
    return rates[int((1 - CONFIDENCE) * RESAMPLES)], rates[int(CONFIDENCE * RESAMPLES)]


def calibration_yaml(calibration: Calibration, date: str) -> str:
    """The calibrated sections of `tolerance.yaml`, as text; `date` is the day of the calibration."""
    import yaml

    sections = {
        "flip_rate": {
            "same": _entry(calibration.same, date, "paper against reproduction, within one document"),
            "other": _entry(
                calibration.other, date, "one model and task in two documents, one harness not named"
            ),
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
            "most_likely": float(f"{estimate.best:.3g}"),
            "limits": [float(f"{estimate.low:.3g}"), float(f"{estimate.high:.3g}")],
            "value_is": f"upper {CONFIDENCE:.0%} limit, rounded up to two digits",
            "command": "scanproof calibrate",
            "date": date,
        },
    }


def disagreements(calibration: Calibration, constants: Constants) -> tuple[str, ...]:
    """What `tolerance.yaml` says and the calibration does not, in words; empty when they agree."""
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
