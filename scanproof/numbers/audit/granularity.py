"""Check that a share of N documents is k / N for a whole number k, to the digits printed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from scanproof.numbers.audit import rounding
from scanproof.numbers.audit.audit_finding import AuditFinding
from scanproof.numbers.values import PublishedValue


def power(value: PublishedValue) -> float:
    """Probability that a random number, printed with as many digits, fails this check.

    0 where every printable number is some k / N, and where the number is not a share of a known N.
    """
    if not value.counts_documents or value.documents is None:
        return 0.0
    return max(0.0, 1.0 - (value.documents + 1) * 2 * value.half_unit)


def check(values: Iterable[PublishedValue]) -> Iterator[AuditFinding]:
    """One finding for each number that is not k / N for any k."""
    for value in values:
        tested = power(value)
        if tested == 0 or value.documents is None or rounding.counts(value, value.documents):
            continue
        n = value.documents
        k = int(value.expected * n)
        shown = len(value.printed.partition(".")[2])
        near = ", ".join(f"{j}/{n} prints {value.scale * j / n:.{shown}f}" for j in (k, k + 1))
        yield AuditFinding(
            check="granularity",
            values=(value.id,),
            document=value.document,
            line=value.line,
            message=f"{value.printed} is no share of {n} documents: {near}",
            numbers={"documents": n, "printed": value.printed, "power": round(tested, 3)},
        )
