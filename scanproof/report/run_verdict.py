"""The verdict of a run: what failed, what is new, what is known, what could not run.  Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from scanproof.numbers.verdict.outcome import Meaning, Outcome, fails, meaning_of, names
from scanproof.record import Run
from scanproof.report.content import Number, RunVerdict, TimedCase


def conclude(
    run: Run, numbers: Sequence[Number], latencies: Sequence[TimedCase], drifts: Sequence[str], *, earlier: bool
) -> RunVerdict:
    """Conclude the verdict of a run.  What was not measured never counts as passed.

    Args:
        run: the run.
        numbers: all its numbers.
        latencies: all its kernel cases.
        drifts: drifts over the nights, in words.
        earlier: whether there is an earlier run.
    """
    everything: list[Number | TimedCase] = [*numbers, *latencies]
    failed = sorted((number for number in numbers if fails(number.outcome)), key=lambda number: not number.new)
    slower = [case.id for case in latencies if fails(case.outcome)]
    new = tuple(row.id for row in everything if row.new)
    changed = [finding for finding in run.joint if finding.changed]
    together = (*(f"all numbers of {finding.subject} together: {finding.because}" for finding in changed), *drifts)
    not_run = group_by_reason(everything, names(Meaning.BROKEN))
    failed_ids = tuple(number.id for number in failed) + tuple(slower)
    bad = bool(failed_ids or changed)
    missing = (run.selected or 0) - len(run.records)
    return RunVerdict(
        state="failed" if bad else "incomplete" if not_run or missing > 0 or run.finished is None else "passed",
        sentence=write_sentence(run, numbers, latencies, missing, earlier=earlier),
        outcomes=dict(sorted(Counter(row.outcome for row in everything).items())),
        failed=failed_ids,
        new=new,
        fixed=tuple(number.id for number in numbers if number.fixed),
        known=tuple(number.id for number in numbers if number.outcome == Outcome.KNOWN_DISCREPANCY),
        not_run=not_run,
        not_compared=group_by_reason(numbers, frozenset({Outcome.NOT_COMPARABLE.value})),
        together=together,
    )


def group_by_reason(rows: Iterable[Number | TimedCase], outcomes: frozenset[str]) -> dict[str, tuple[str, ...]]:
    """Reason -> ids of the rows with one of these outcomes; the most frequent reason comes first."""
    ids_by_reason: dict[str, list[str]] = {}
    for row in rows:
        if row.outcome in outcomes:
            ids_by_reason.setdefault(f"{row.outcome}: {row.because}", []).append(row.id)
    ordered = sorted(ids_by_reason.items(), key=lambda entry: -len(entry[1]))
    return {reason: tuple(ids) for reason, ids in ordered}


def write_sentence(
    run: Run, numbers: Sequence[Number], latencies: Sequence[TimedCase], missing: int, *, earlier: bool
) -> str:
    """The verdict in one or two sentences."""
    judged = [number for number in numbers if meaning_of(number.outcome) is not Meaning.BROKEN]
    failed = [number for number in numbers if fails(number.outcome)]
    measured = f"{len(judged)} of {count_noun(len(numbers), 'number')} measured" if numbers else "no number asked for"
    parts = [f"{count_noun(len(failed), 'number')} failed" if failed else "no number failed", measured]
    new = sum(number.new for number in failed)
    if failed and earlier:
        parts.insert(1, f"{new} of them new since the last run" if new else "none of them new since the last run")
    slower = sum(fails(case.outcome) for case in latencies)
    if latencies:
        parts.append(f"{count_noun(slower, 'kernel case')} of {len(latencies)} slower" if slower else
                     f"none of {count_noun(len(latencies), 'kernel case')} slower")  # fmt: skip
    joint = [finding.subject for finding in run.joint if finding.changed]
    if joint:
        parts.append(f"changed over all numbers together: {', '.join(joint)}")
    if missing > 0:
        parts.append(f"{count_noun(missing, 'selected number')} not reached, the session was stopped")
    elif run.finished is None:
        parts.append("the session was stopped")
    text = "; ".join(parts)
    return f"{text[0].upper()}{text[1:]}."


def count_noun(number: int, what: str) -> str:
    """`1 number`, `2 numbers`."""
    return f"{number} {what}{'' if number == 1 else 's'}"
