"""Compare the printed standard error with the one that lm-eval computes: sqrt(p (1 - p) / (N - 1)).

A group has lm-eval's pooled standard error of its tasks.  Mean probability masses and perplexities are left out:
their standard errors do not follow from the number.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence

from scanproof.numbers.audit import rounding
from scanproof.numbers.audit.audit_finding import AuditFinding, possible
from scanproof.numbers.values import PublishedValue

Interval = tuple[float, float]


def check(values: Sequence[PublishedValue]) -> Iterator[AuditFinding]:
    """One finding for each standard error that cannot belong to its number."""
    for value in values:
        if value.stderr is None or value.documents is None or not value.counts_documents:
            continue
        computed = _pooled(value, values) if value.pooled else share_stderr(value, value.documents)
        if computed is None:
            continue
        low, high = rounding.stderr_interval(value)
        if computed[0] - rounding.EDGE <= high and low <= computed[1] + rounding.EDGE:
            continue
        yield AuditFinding(
            check="stderr",
            values=(value.id,),
            document=value.document,
            line=value.line,
            message=f"{value.printed} of {value.documents} documents has a standard error of "
            f"{_range(computed, value)}, printed is {value.stderr}",
            numbers={"documents": value.documents, "printed": value.stderr, "computed": sum(computed) / 2},
        )


def share_stderr(value: PublishedValue, documents: int) -> Interval:
    """Lowest and highest standard error of the shares that are printed as `value`."""
    low, high = possible(value)
    variances = [p * (1 - p) for p in (low, high)]
    if low <= 0.5 <= high:
        variances.append(0.25)
    return math.sqrt(min(variances) / (documents - 1)), math.sqrt(max(variances) / (documents - 1))


def pooled(parts: Iterable[tuple[float, int]]) -> float:
    """lm-eval's standard error of a group, from the (standard error, documents) of its tasks."""
    parts = tuple(parts)
    documents = sum(n for _, n in parts)
    variance = math.fsum((n - 1) * stderr**2 * n for stderr, n in parts) / (documents - len(parts))
    return math.sqrt(variance / documents)


def _pooled(value: PublishedValue, values: Sequence[PublishedValue]) -> Interval | None:
    """Lowest and highest standard error of a group; None when the document does not print all of its tasks."""
    parts = parts_of(value, values)
    if parts is None:
        return None
    ranges = [(share_stderr(part, part.documents), part.documents) for part in parts if part.documents]
    low, high = (pooled((interval[end], n) for interval, n in ranges) for end in (0, 1))
    return low, high


def parts_of(value: PublishedValue, values: Sequence[PublishedValue]) -> list[PublishedValue] | None:
    """The printed parts of a derived number, from its own document and model; None when one is missing."""
    printed = []
    for part in value.parts:
        same = (
            other
            for other in values
            if (other.task, other.metric) == (part.task, part.metric)
            and (other.document, other.model, other.origin) == (value.document, value.model, value.origin)
        )
        first = next(same, None)
        if first is None:
            return None
        printed.append(first)
    return printed or None


def _range(interval: Interval, value: PublishedValue) -> str:
    places = len((value.stderr or "").partition(".")[2])
    low, high = (f"{value.scale * end:.{places}f}" for end in interval)
    return low if low == high else f"{low} to {high}"
