"""The first gate: compare a measured number with the printed one.  Pure arithmetic.

    allowed = half a unit of the last printed digit + effect of flipped documents + what was added by hand

All sizes are in the metric's natural unit: accuracies as fractions, perplexities raw.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from statistics import NormalDist

from scanproof.numbers.expected.constants import Constants, load_constants
from scanproof.numbers.values import KnownDiscrepancy, PublishedValue
from scanproof.numbers.verdict.engines import Engines
from scanproof.numbers.verdict.flip_bounds import Term, net_flips, net_mass
from scanproof.numbers.verdict.outcome import Outcome

__all__ = [
    "Allowance",
    "AllowancePart",
    "Constants",
    "Verdict",
    "allowance",
    "compare",
    "load_constants",
]


@dataclass(frozen=True)
class AllowancePart:
    """One reason to allow a difference."""

    name: str
    """`rounding`, `flips`, `noise`, `harness` or `widened`."""
    size: float
    because: str


@dataclass(frozen=True)
class Allowance:
    """How far a measurement may lie from a printed number, and what the comparison can see."""

    total: float
    parts: tuple[AllowancePart, ...]
    detectable: float
    """The smallest true change that is caught with probability `power`, whichever way the print was rounded."""
    noise_sd: float
    """Standard deviation of the difference of two correct runs, rounding included."""


@dataclass(frozen=True)
class Verdict:
    """The comparison of one printed number with one measurement."""

    outcome: Outcome
    expected: float | None
    """None where no number is recorded yet."""
    measured: float | None
    """None when nothing usable was measured."""
    difference: float | None
    """Measured minus expected."""
    allowance: Allowance | None
    """None where no comparison was made."""
    documents_moved: float | None
    """The difference in documents, gained minus lost; None where the number is not a count of documents."""
    sigmas: float | None
    """The difference in standard deviations of the difference of two correct runs."""
    because: str
    engines: Engines | None = None
    """The results of both engines; None where only one was needed."""
    not_made_again: str | None = None
    """What was not kept of its answers, so that the number could not be made again; None where it was made."""


@dataclass(frozen=True)
class _Noise:
    """How far two correct runs differ: two quantiles and a standard deviation."""

    bound: float
    """Exceeded with probability at most `level`, both sides together."""
    usual: float
    """Exceeded to one side with probability at most 1 - power."""
    sd: float
    because: str


def allowance(value: PublishedValue, constants: Constants, documents: int | None = None) -> Allowance:
    """How far a measurement of `value` may lie from what was printed.

    `documents` is needed only where `value.documents` is None.  Raises ValueError when neither is known.
    """
    noise = _noise(value, constants, documents, constants.flip_rate_same)
    name = "noise" if value.metric == "perplexity" else "flips"
    parts = [
        AllowancePart("rounding", value.half_unit, f"half a unit of the last digit of {value.printed}"),
        AllowancePart(name, noise.bound, noise.because),
    ]
    if value.harness != "same":
        wider = _noise(value, constants, documents, constants.flip_rate_other)
        parts.append(AllowancePart("harness", wider.bound - noise.bound, _harness_because(value, constants)))
        noise = wider
    if value.widened is not None:
        parts.append(AllowancePart("widened", value.widened.by / value.scale, value.widened.reason))
    total = math.fsum(part.size for part in parts)
    rounding_variance = value.half_unit**2 / 3
    return Allowance(
        total=total,
        parts=tuple(parts),
        detectable=total + value.half_unit + noise.usual,
        noise_sd=math.sqrt(noise.sd**2 + rounding_variance),
    )


def list_blind_sides(metric: str, expected: float, allowed: float) -> tuple[str, ...]:
    """Directions in which a number cannot fail, `low` or `high`: every possible measurement on that side is allowed.

    Args:
        metric: `acc`, `acc_norm` or `perplexity`.
        expected: the number, in its natural unit.
        allowed: how far a measurement may lie from it, in the same unit.
    """
    lowest, highest = (1.0, math.inf) if metric == "perplexity" else (0.0, 1.0)
    sides = [("low", expected - allowed <= lowest), ("high", expected + allowed >= highest)]
    return tuple(name for name, blind in sides if blind)


def _noise(value: PublishedValue, constants: Constants, documents: int | None, flip_rate: float) -> _Noise:
    if value.metric == "perplexity":
        return _perplexity_noise(value, constants, value.documents or documents, flip_rate)
    if value.parts and not value.pooled:
        return _mean_noise(value, constants, flip_rate)
    n = value.documents or documents
    if n is None:
        raise ValueError(f"{value.id}: the number of documents is unknown; write it in the expected file")
    if not value.binary:
        return _mass_noise(n, constants, flip_rate)
    return _share_noise(n, constants, flip_rate)


def _share_noise(n: int, constants: Constants, flip_rate: float) -> _Noise:
    flips = flip_rate * n
    bound = net_flips(flips, constants.level / 2)
    because = (
        f"{flip_rate:.3g} of {n} documents flip between two correct runs; their net exceeds {bound:.1f} "
        f"(z = {bound / math.sqrt(flips):.2f}) in {_rarely(constants)}"
    )
    return _Noise(bound / n, net_flips(flips, 1 - constants.power) / n, math.sqrt(flips) / n, because)


def _mass_noise(n: int, constants: Constants, flip_rate: float) -> _Noise:
    terms = ((flip_rate * n, 1.0 / n),)
    bound = net_mass(terms, constants.level / 2)
    because = (
        f"a mean probability mass of {n} documents: {flip_rate:.3g} of them taken to move by 1, further than "
        f"which no mass can move; the net of them exceeds {bound * n:.1f} in {_rarely(constants)}"
    )
    return _Noise(bound, net_mass(terms, 1 - constants.power), math.sqrt(flip_rate / n), because)


def _mean_noise(value: PublishedValue, constants: Constants, flip_rate: float) -> _Noise:
    terms = tuple(_mean_terms(value, flip_rate))
    bound = net_mass(terms, constants.level / 2)
    because = (
        f"{flip_rate:.3g} of the documents of each of {len(terms)} tasks flip between two correct runs, "
        f"a task weighs 1/{len(terms)}; the net of them exceeds {bound:.2g} in {_rarely(constants)}"
    )
    sd = math.sqrt(math.fsum(flips * weight**2 for flips, weight in terms))
    return _Noise(bound, net_mass(terms, 1 - constants.power), sd, because)


def _mean_terms(value: PublishedValue, flip_rate: float) -> Iterator[Term]:
    for part in value.parts:
        if part.documents is None:
            raise ValueError(f"{value.id}: the number of documents of {part.task} is unknown")
        yield flip_rate * part.documents, 1.0 / (len(value.parts) * part.documents)


def _perplexity_noise(value: PublishedValue, constants: Constants, n: int | None, flip_rate: float) -> _Noise:
    # A harness that flips more documents also moves log-likelihoods more: both variances grow by the same factor.
    sd = constants.perplexity_sd * math.sqrt(flip_rate / constants.flip_rate_same)
    if n is not None:
        sd *= math.sqrt(constants.perplexity_documents / n)
    because = (
        f"two correct runs' log perplexity differs by {sd:.2g} (sd), "
        f"by more than {constants.z:.2f} of it in {_rarely(constants)}"
    )
    usual = NormalDist().inv_cdf(constants.power)
    size = value.expected * sd
    return _Noise(constants.z * size, usual * size, size, because)


def _rarely(constants: Constants) -> str:
    return f"1 of {1 / constants.level:,.0f} comparisons"


def _harness_because(value: PublishedValue, constants: Constants) -> str:
    reasons = {"other": "the document used another harness", "unknown": "the document does not name its harness"}
    same, other = constants.flip_rate_same, constants.flip_rate_other
    return f"{reasons[value.harness]}: flip rate {other:.3g} in place of {same:.3g}"


def compare(
    value: PublishedValue,
    measured: float | None,
    constants: Constants,
    *,
    documents: int | None = None,
    limited: bool = False,
) -> Verdict:
    """Judge one measurement, in natural units, two-sided.

    `documents` is the number of documents that were scored; `limited` says that it was reduced on purpose.  An
    impossible measurement is an ERROR.  So is another number of documents than the expected file states: the dataset
    is not the one that the number was published for, and somebody has to look.
    """
    if measured is None or not math.isfinite(measured) or not _possible(value, measured):
        because = f"measured {measured!r}, which is no possible {value.metric}"
        return _without(value, Outcome.ERROR, None, because)
    if limited:
        because = "a subset of the documents was scored; the printed number is for all of them"
        return _without(value, Outcome.NOT_COMPARABLE, measured, because)
    if value.unrecorded:
        because = "no number is recorded yet; `scanproof record` writes that of a trusted run"
        return _without(value, Outcome.NOT_COMPARABLE, measured, because)
    if value.not_comparable is not None:
        return _without(value, Outcome.NOT_COMPARABLE, measured, value.not_comparable)
    if None not in (documents, value.documents) and documents != value.documents:
        because = f"{documents} documents were scored, {value.documents} expected: the dataset has changed"
        return _without(value, Outcome.ERROR, measured, because)
    return _judge(value, measured, constants, value.documents or documents)


def reject(value: PublishedValue, because: str) -> Verdict:
    """The verdict on a measurement that nothing may be concluded from."""
    return _without(value, Outcome.ERROR, None, because)


def _possible(value: PublishedValue, measured: float) -> bool:
    # The mean of exact shares can exceed 1 by a rounding error in the last bit.
    return measured >= 1 if value.metric == "perplexity" else -1e-9 <= measured <= 1 + 1e-9


def _without(value: PublishedValue, outcome: Outcome, measured: float | None, because: str) -> Verdict:
    expected = None if value.unrecorded else value.expected
    difference = None if measured is None or expected is None else measured - expected
    return Verdict(outcome, expected, measured, difference, None, None, None, because)


def _judge(value: PublishedValue, measured: float, constants: Constants, n: int | None) -> Verdict:
    allowed = allowance(value, constants, n)
    difference = measured - value.expected
    # A difference that is exact in print (0.4412 - 0.4407) must not fail because of binary rounding.
    within = abs(difference) <= allowed.total * (1 + 1e-9)
    moved = difference * n if n is not None and value.counts_documents else None
    outcome, because = _outcome(value, within, difference, allowed)
    if value.known_discrepancy is not None and not within:
        meant = replace(value, printed=value.known_discrepancy.comes_out, widened=None)
        outcome, because = _judge_known(value.known_discrepancy, meant, measured, allowance(meant, constants, n).total)
    sigmas = difference / allowed.noise_sd
    return Verdict(outcome, value.expected, measured, difference, allowed, moved, sigmas, because)


def _outcome(value: PublishedValue, within: bool, difference: float, allowed: Allowance) -> tuple[Outcome, str]:
    size = f"{abs(difference) * value.scale:.4g} against {allowed.total * value.scale:.4g} allowed"
    if not within:
        side = "above" if difference > 0 else "below"
        return Outcome.OUT_OF_TOLERANCE, f"measured {side} the printed number by {size}"
    if value.known_discrepancy is None:
        return Outcome.REPRODUCED, f"within tolerance, {size}"
    place = f"{value.file}:{value.file_line}"
    because = f"the known discrepancy is gone ({size}): remove known_discrepancy from {place}"
    return Outcome.OUT_OF_TOLERANCE, because


def _judge_known(
    known: KnownDiscrepancy, meant: PublishedValue, measured: float, allowed: float
) -> tuple[Outcome, str]:
    """A number that is known not to come out as printed: it has to come out as `meant` does."""
    difference = abs(measured - meant.expected)
    size = f"{difference * meant.scale:.4g} against {allowed * meant.scale:.4g} allowed"
    if difference <= allowed * (1 + 1e-9):
        return Outcome.KNOWN_DISCREPANCY, f"{known.reason} It is {known.comes_out} that comes out, {size}."
    other = f"the {known.comes_out} that is known to come out ({known.source})"
    return Outcome.OUT_OF_TOLERANCE, f"measured neither as printed nor {other}, by {size}"
