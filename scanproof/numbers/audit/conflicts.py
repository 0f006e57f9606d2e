"""Find numbers for one model and task that differ between two documents, or within one."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

from scanproof.numbers.audit import rounding
from scanproof.numbers.audit.audit_finding import AuditFinding, last_part, points
from scanproof.numbers.expected.constants import Constants
from scanproof.numbers.values import PublishedValue
from scanproof.numbers.verdict.tolerance import allowance

MINIMUM_SHARED = 3
"""Tasks that another model has to share with a row before it can be said to explain it."""


@dataclass(frozen=True)
class Match:
    """How well the numbers of a model in another document agree with a row."""

    model: str
    pairs: tuple[tuple[PublishedValue, PublishedValue], ...]
    """(value of the row, value of the model) for each task; acc or acc_norm, whichever is nearer."""
    within: int
    """Pairs that agree within tolerance."""

    @property
    def rms(self) -> float:
        """Root mean square of the differences, in points."""
        squares = [(points(first) - points(second)) ** 2 for first, second in self.pairs]
        return math.sqrt(math.fsum(squares) / len(squares))


def check(values: Sequence[PublishedValue], constants: Constants) -> Iterator[AuditFinding]:
    """One finding for each number printed in two ways, and for each row that conflicts with its own model."""
    yield from _printed_twice(values)
    for row in _rows(values):
        elsewhere = [value for value in values if value.document != row[0].document]
        own_names = dict.fromkeys((last_part(row[0].model), last_part(row[0].hub_id)))
        for name in own_names:
            yield from _compare_with_model(row, name, elsewhere, constants)


def _printed_twice(values: Sequence[PublishedValue]) -> Iterator[AuditFinding]:
    """Numbers of one document for the same measurement that are printed with different values."""
    groups: dict[tuple[str, ...], list[PublishedValue]] = {}
    for value in values:
        if not value.parts:
            what = (value.document, value.model, value.origin, *_measurement(value))
            groups.setdefault(what, []).append(value)
    for group in groups.values():
        for first, second in combinations(group, 2):
            if abs(first.expected - second.expected) > first.half_unit + second.half_unit + rounding.EDGE:
                yield AuditFinding(
                    check="conflict",
                    values=(first.id, second.id),
                    document=first.document,
                    line=first.line,
                    message=f"{first.printed} on line {first.line}, {second.printed} on line {second.line}",
                    numbers={"points": points(second) - points(first)},
                )


def _rows(values: Iterable[PublishedValue]) -> Iterator[list[PublishedValue]]:
    """The numbers that one document prints for one model, without those that it copies from a paper."""
    rows: dict[tuple[str, str], list[PublishedValue]] = {}
    for value in values:
        if value.origin != "paper" and value.task != "average":
            rows.setdefault((value.document, value.model), []).append(value)
    yield from rows.values()


def _compare_with_model(
    row: list[PublishedValue], name: str, elsewhere: Sequence[PublishedValue], constants: Constants
) -> Iterator[AuditFinding]:
    """Compare a row with the numbers that other documents print for the model of this name."""
    named = [value for value in elsewhere if last_part(value.hub_id) == name]
    own = _without_quotations(value for value in named if _has_to_explain(row[0], value))
    pairs = [(a, b) for a in row for b in own if _measurement(a) == _measurement(b)]
    conflicts = [(a, b) for a, b in pairs if not agree(a, b, constants)]
    if not conflicts:
        return
    ids = tuple(dict.fromkeys(a.id for a, _ in conflicts))
    explanation, numbers = _explain(row, name, elsewhere, constants)
    shown = ", ".join(f"{a.task} {a.printed} ({b.printed} in {b.document})" for a, b in conflicts)
    filed_elsewhere = last_part(row[0].hub_id) != name
    yield AuditFinding(
        check="conflict",
        values=ids,
        document=row[0].document,
        line=row[0].line,
        message=f"the row of {row[0].model} differs from {own[0].hub_id}: {shown}; {explanation}",
        numbers=numbers,
        settled_by="hub_id" if filed_elsewhere else "",
    )


def _without_quotations(values: Iterable[PublishedValue]) -> list[PublishedValue]:
    """Drop the paper's number where the document also has a number of its own."""
    chosen: dict[tuple[str, ...], PublishedValue] = {}
    for value in values:
        what = (value.document, *_measurement(value))
        if what not in chosen or chosen[what].origin == "paper":
            chosen[what] = value
    return list(chosen.values())


def _has_to_explain(value: PublishedValue, other: PublishedValue) -> bool:
    """Whether `value`, of two that differ, needs the explanation.

    It is the one whose harness is less certain; if both are alike, the one in the later document.
    """
    if (value.harness == "same") != (other.harness == "same"):
        return other.harness == "same"
    return value.document > other.document


def agree(first: PublishedValue, second: PublishedValue, constants: Constants) -> bool:
    """Whether two printed numbers can be the same: within the rounding of both and the wider of their allowances."""
    allowed = max(allowance(value, constants).total - value.half_unit for value in (first, second))
    allowed += first.half_unit + second.half_unit
    return abs(first.expected - second.expected) <= allowed + rounding.EDGE


def _explain(
    row: Sequence[PublishedValue], name: str, elsewhere: Sequence[PublishedValue], constants: Constants
) -> tuple[str, dict[str, float | str]]:
    """Say whether another model fits the row better than its own, in words and in figures."""
    matches = [match for match in _matches(row, elsewhere, constants) if len(match.pairs) >= MINIMUM_SHARED]
    own = next((match for match in matches if last_part(match.model) == name), None)
    best = min(matches, key=lambda match: (match.rms, match.model), default=None)
    if best is None or last_part(best.model) == name:
        return "no other model explains it better", {"own_rms_points": own.rms if own else "unknown"}
    metrics = ", ".join(f"{second.task} {second.metric}" for _, second in best.pairs)
    text = (
        f"{best.model} explains it better: {best.within} of {len(best.pairs)} within tolerance, "
        f"root mean square {best.rms:.2f} points"
    )
    numbers: dict[str, float | str] = {"best": best.model, "best_rms_points": best.rms, "metrics": metrics}
    if own is not None:
        text += f" (own model {own.rms:.2f})"
        numbers["own_rms_points"] = own.rms
    return f"{text}, with {metrics}", numbers


def _matches(
    row: Sequence[PublishedValue], elsewhere: Sequence[PublishedValue], constants: Constants
) -> Iterator[Match]:
    models: dict[str, list[PublishedValue]] = {}
    for value in elsewhere:
        if value.origin != "paper":
            models.setdefault(value.hub_id, []).append(value)
    for model, candidates in models.items():
        pairs = tuple(pair for value in row if (pair := _nearest(value, candidates)) is not None)
        within = sum(agree(first, second, constants) for first, second in pairs)
        yield Match(model, pairs, within)


def _nearest(
    value: PublishedValue, candidates: Iterable[PublishedValue]
) -> tuple[PublishedValue, PublishedValue] | None:
    """`value` and the candidate for the same task and shots with the nearest number, whether acc or acc_norm."""
    same = [
        other
        for other in candidates
        if (other.task, other.job.num_fewshot) == (value.task, value.job.num_fewshot)
        and (other.metric == "perplexity") == (value.metric == "perplexity")
    ]
    if not same:
        return None
    return value, min(same, key=lambda other: abs(other.expected - value.expected))


def _measurement(value: PublishedValue) -> tuple[str, ...]:
    return value.task, value.metric, str(value.job.num_fewshot)
