"""Compare derived numbers with the parts that are printed beside them, and with themselves where printed twice."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import combinations

from scanproof.numbers.audit import rounding
from scanproof.numbers.audit.audit_finding import AuditFinding, possible
from scanproof.numbers.audit.stderrs import parts_of
from scanproof.numbers.values import PublishedValue


def check(values: Sequence[PublishedValue]) -> Iterator[AuditFinding]:
    """One finding for each aggregate that does not follow from its parts, and for each that is printed in two ways."""
    derived = [value for value in values if value.parts]
    for value in derived:
        parts = parts_of(value, values)
        if parts is not None:
            yield from _compare_with_parts(value, parts)
    for first, second in combinations(derived, 2):
        same = _identity(first) == _identity(second) and first.origin == second.origin
        if same and (first.printed, first.stderr) != (second.printed, second.stderr):
            yield _printed_twice(first, second)


def mean(value: PublishedValue, parts: Sequence[PublishedValue], numbers: Sequence[float]) -> float:
    """Mean of the parts' numbers: plain, or weighted by documents."""
    weights = [part.documents or 0 if value.pooled else 1 for part in parts]
    return math.fsum(weight * x for weight, x in zip(weights, numbers, strict=True)) / sum(weights)


def _compare_with_parts(value: PublishedValue, parts: Sequence[PublishedValue]) -> Iterator[AuditFinding]:
    ends = [possible(part) for part in parts]
    low, high = (mean(value, parts, [interval[end] for interval in ends]) for end in (0, 1))
    value_low, value_high = rounding.interval(value)
    if low <= value_high + rounding.EDGE and value_low <= high + rounding.EDGE:
        return
    centre = mean(value, parts, [part.expected for part in parts])
    kind = "mean over the documents" if value.pooled else "mean"
    places = len(value.printed.partition(".")[2]) + 2
    lowest, middle, highest = (f"{value.scale * x:.{places}f}" for x in (low, centre, high))
    yield AuditFinding(
        check="aggregate",
        values=(value.id,),
        document=value.document,
        line=value.line,
        message=f"{value.printed} is not the {kind} of its {len(parts)} parts, {middle} ({lowest} to {highest})",
        numbers={
            "printed": value.printed,
            "computed": value.scale * centre,
            "lowest": value.scale * low,
            "highest": value.scale * high,
        },
    )


def _identity(value: PublishedValue) -> tuple[str, ...]:
    return value.document, value.model, value.task, value.metric, str(value.job.num_fewshot)


def _printed_twice(first: PublishedValue, second: PublishedValue) -> AuditFinding:
    return AuditFinding(
        check="aggregate",
        values=(first.id, second.id),
        document=first.document,
        line=first.line,
        message=f"{first.task} is printed as {first.printed} (stderr {first.stderr}) on line {first.line} "
        f"and as {second.printed} (stderr {second.stderr}) on line {second.line}",
        numbers={"first": first.printed, "second": second.printed},
    )
