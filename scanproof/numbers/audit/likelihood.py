"""Likelihoods of flip rates and of perplexity deviations on a grid of candidates, and estimates from them.

A curve is a float64 array [grid]: the log-likelihood of each candidate in GRID.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Curve = NDArray[Any]

STEPS_PER_DECADE = 300
GRID = tuple(10 ** (-5 + step / STEPS_PER_DECADE) for step in range(5 * STEPS_PER_DECADE))
"""Candidates from 1e-5 to 1, 0.8% apart."""
SPREADS = tuple(0.05 * step for step in range(1, 51))
"""Candidates for the standard deviation, over models, of the logarithm of the flip rate."""
RATIOS = tuple(10 ** (step / 100 - 1) for step in range(301))
"""Candidates for the ratio of two flip rates, 0.1 to 100."""
CONFIDENCE = 0.95
"""Confidence of every limit, one-sided."""


def flip_curve(first: range, second: range, documents: int) -> Curve:
    """Curve of the flip rate, from the counts of right documents that two printed numbers can stand for."""
    import numpy as np
    from scipy.special import ive

    distance, times = np.unique([abs(a - b) for a in first for b in second], return_counts=True)
    flips = np.asarray(GRID) * documents
    # exp(-flips) * I_d(flips) is the probability that gains minus losses are d.
    likelihood = times @ ive(distance[:, None], flips[None, :]) / len(second)
    curve: Curve = np.log(np.maximum(likelihood, 1e-300))
    return curve


def deviation_curve(low: float, high: float) -> Curve:
    """Curve of the standard deviation of a normal difference that lies between `low` and `high`."""
    import numpy as np
    from scipy.special import ndtr

    sd = np.asarray(GRID)
    curve: Curve = np.log(np.maximum(ndtr(high / sd) - ndtr(low / sd), 1e-300))
    return curve


def combined(curves: Iterable[Curve]) -> Curve:
    """The curve of all pairs together; they are independent."""
    import numpy as np

    total: Curve = np.sum(np.stack(list(curves)), axis=0)
    return total


def limits(curve: Curve, candidates: Sequence[float] = GRID) -> tuple[float, float, float]:
    """The most likely candidate, and the lower and upper limit by the likelihood ratio."""
    best = int(curve.argmax())
    drop = 0.5 * NormalDist().inv_cdf(CONFIDENCE) ** 2
    inside = [step for step in range(len(candidates)) if curve[step] >= curve[best] - drop]
    return candidates[best], candidates[inside[0]], candidates[inside[-1]]


@dataclass(frozen=True)
class Spread:
    """Log-normal distribution of flip rates over models."""

    median: float
    sd: float
    """Standard deviation of the natural logarithm."""

    def weights(self) -> Curve:
        """Probability of each candidate of GRID; float64 [grid]."""
        import numpy as np

        weights = np.exp(-0.5 * (np.log(np.asarray(GRID) / self.median) / self.sd) ** 2)
        normalised: Curve = weights / weights.sum()
        return normalised


def fit_spread(curves: Sequence[Curve]) -> Spread:
    """The most likely distribution of flip rates, from one curve per model."""
    import numpy as np

    stacked = np.stack(curves)
    likelihoods = np.exp(stacked - stacked.max(axis=1, keepdims=True))
    candidates = [Spread(median, sd) for median in GRID[::10] for sd in SPREADS]
    return max(candidates, key=lambda spread: float(np.log(likelihoods @ spread.weights()).sum()))


def effective_rate(spread: Spread, level: float) -> float:
    """The flip rate whose two-sided bound is exceeded with probability `level` by a model drawn from `spread`.

    With normal tails: the bound at rate r is z * sqrt(r), and a model of rate q exceeds it with probability
    2 * Phi(-z * sqrt(r / q)).
    """
    import numpy as np
    from scipy.optimize import brentq
    from scipy.special import ndtr

    weights, rates = spread.weights(), np.asarray(GRID)
    z = NormalDist().inv_cdf(1 - level / 2)

    def excess(log_rate: float) -> float:
        return float((weights * 2 * ndtr(-z * np.sqrt(math.exp(log_rate) / rates))).sum()) - level

    return math.exp(brentq(excess, math.log(GRID[0]), 0.0, xtol=1e-9))


def ratio_curve(numerators: Sequence[Curve], denominators: Sequence[Curve | None], spread: Spread) -> Curve:
    """Curve, over RATIOS, of the ratio of two flip rates of a model; it is the same for all models.

    The rate of each model is integrated out: its prior is `spread`, times the model's own curve where there is one.
    """
    import numpy as np

    weights = spread.weights()
    logarithms = np.log(np.asarray(GRID))
    total = np.zeros(len(RATIOS))
    for numerator, denominator in zip(numerators, denominators, strict=True):
        own = weights if denominator is None else weights * np.exp(denominator - denominator.max())
        for step, ratio in enumerate(RATIOS):
            shifted = np.interp(logarithms + math.log(ratio), logarithms, numerator)
            total[step] += math.log(float((own * np.exp(shifted - numerator.max())).sum()) + 1e-300)
    return total
