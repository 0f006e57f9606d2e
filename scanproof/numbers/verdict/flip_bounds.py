"""How far two correct runs can differ: tail bounds for the net number of flipped documents.

Model: between two correct runs, floating-point noise flips the answers to a few documents; gained and lost are
equally likely.  Gains and losses are independent Poisson counts of mean `flips / 2` each; their
difference K is a symmetric Skellam variable of variance `flips`.  The textbook z * sqrt(flips) is the tail of
a normal variable and too narrow for K while `flips` is small (a subject of 100 documents expects about one);
`docs/decisions/0001-tolerance.md` has the figures.

Tilting K by theta gives it the mean x = flips * sinh(theta) and the variance v = flips * cosh(theta), and

    P(K > x) <= exp(-(theta * x - flips * (cosh(theta) - 1))) * min(1, m / (1 - exp(-theta)))

where m = exp(-v) * I0(v) bounds every probability of the tilted lattice variable (it is the integral of its
|characteristic function|).  The first factor is Chernoff's bound.  With the second, x is within 0.3% of the normal
quantile for many flips, so the bound is almost exact there.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache

Term = tuple[float, float]
"""(expected flips, weight of one document in the sum)."""
_ROOT_ACCURACY = 1e-13
"""Relative accuracy of the tilt theta."""


@lru_cache(maxsize=200_000)
def net_flips(flips: float, tail: float) -> float:
    """Smallest x, in documents, for which the bound proves P(K > x) <= tail; K is gained minus lost.

    `flips` is the expected number of flipped documents, q * N.  x grows with `flips` and x / N falls with N.
    """
    if flips == 0:
        return 0.0
    theta = _solve(lambda t: _chernoff(((flips, 1.0),), t) - _lattice_gain(flips, t), -math.log(tail))
    return flips * math.sinh(theta)


@lru_cache(maxsize=200_000)
def net_mass(terms: tuple[Term, ...], tail: float) -> float:
    """Smallest x for which Chernoff's bound proves P(sum of weight * K > x) <= tail.

    It does not need a lattice.  It also holds where one flip moves the sum by any amount up to `weight`, with both
    directions equally likely, because cosh(theta * jump) <= cosh(theta) for |jump| <= 1.
    """
    terms = tuple((flips, weight) for flips, weight in terms if flips > 0)
    if not terms:
        return 0.0
    largest = max(weight for _, weight in terms)
    relative = tuple((flips, weight / largest) for flips, weight in terms)
    theta = _solve(lambda t: _chernoff(relative, t), -math.log(tail))
    return largest * _tilted_mean(relative, theta)


def net_flips_and_rounding(flips: float, variance: float, tail: float) -> float:
    """Smallest x for which Chernoff's bound proves P(K + R > x) <= tail; R is a sum of uniform roundings.

    A uniform variable of variance v has E exp(theta R) <= exp(theta^2 v / 2), and so has a sum of independent ones.
    """
    if flips == 0 and variance == 0:
        return 0.0
    theta = _solve(lambda t: _rounded_chernoff(flips, variance, t), -math.log(tail))
    return flips * math.sinh(theta) + theta * variance


def tail_of_flips_and_rounding(flips: float, variance: float, x: float) -> float:
    """Upper bound of P(K + R > x), the inverse of `net_flips_and_rounding`."""
    if x <= 0:
        return 1.0
    if flips == 0 and variance == 0:
        return 0.0
    theta = _solve(lambda t: flips * math.sinh(t) + t * variance, x)
    return math.exp(-_rounded_chernoff(flips, variance, theta))


def _rounded_chernoff(flips: float, variance: float, theta: float) -> float:
    """Minus the logarithm of Chernoff's bound at the tilted mean flips sinh(theta) + theta variance."""
    mean = flips * math.sinh(theta) + theta * variance
    return theta * mean - 2 * flips * math.sinh(theta / 2) ** 2 - theta**2 * variance / 2


def _tilted_mean(terms: tuple[Term, ...], theta: float) -> float:
    return sum(flips * weight * math.sinh(theta * weight) for flips, weight in terms)


def _chernoff(terms: tuple[Term, ...], theta: float) -> float:
    """Minus the logarithm of Chernoff's bound at the tilted mean; it increases with theta."""
    # cosh(y) - 1 = 2 sinh(y/2)^2 keeps its digits for small y.
    cumulant = sum(2 * flips * math.sinh(theta * weight / 2) ** 2 for flips, weight in terms)
    return theta * _tilted_mean(terms, theta) - cumulant


def _lattice_gain(flips: float, theta: float) -> float:
    """Logarithm (<= 0) of the second factor of the bound; it decreases with theta."""
    from scipy.special import i0e

    largest = float(i0e(flips * math.cosh(theta)))
    return min(0.0, math.log(largest) - math.log(-math.expm1(-theta)))


def _solve(increasing: Callable[[float], float], target: float) -> float:
    """The argument > 0 at which an increasing function reaches `target`, rounded up so that the bound stays proven."""
    # Imported here, because collecting tests imports this module and scipy.optimize alone takes a third of a second.
    from scipy.optimize import brentq

    low, high = 1.0, 1.0
    while increasing(high) < target:
        low, high = high, 1.5 * high
    while increasing(low) >= target:
        low /= 1.5
    root = float(brentq(lambda argument: increasing(argument) - target, low, high, xtol=1e-300, rtol=_ROOT_ACCURACY))
    return root * (1 + 2 * _ROOT_ACCURACY)
