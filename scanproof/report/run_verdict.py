"""The verdict of a run: what failed, what is new, what is known, what could not run.  Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from scanproof.history import run_failures
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
    failed_cases = [case.id for case in latencies if fails(case.outcome)]
    unrecorded_failures = list(run_failures.failed_tests(run))
    new = tuple(row.id for row in everything if row.new)
    changed = [finding for finding in run.joint if finding.changed]
    together = (*(finding.sentence for finding in changed), *drifts)
    not_run = group_by_reason(everything, names(Meaning.BROKEN))
    failed_ids = tuple(number.id for number in failed) + tuple(failed_cases)
    bad = bool(failed_ids or changed or unrecorded_failures)
    partial = any(run_failures.unfinished(run)) or any(run_failures.numbers_without_verdict(run))
    uncompared = any(run_failures.nothing_compared(run))
    green = not (partial or uncompared or not_run or run_failures.list_failures(run))
    return RunVerdict(
        state="failed" if bad else "passed" if green else "incomplete",
        sentence=write_sentence(run, numbers, latencies, earlier=earlier),
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


def write_sentence(run: Run, numbers: Sequence[Number], latencies: Sequence[TimedCase], *, earlier: bool) -> str:
    """The verdict in one or two sentences."""
    judged = [number for number in numbers if meaning_of(number.outcome) is not Meaning.BROKEN]
    failed = [number for number in numbers if fails(number.outcome)]
    asked = max(len(numbers), run.selected or 0)
    measured = f"{len(judged) or 'none'} of {count_noun(asked, 'number')} measured" if asked else "no number asked for"
    parts = [f"{count_noun(len(failed), 'number')} failed" if failed else "no number failed", measured]
    new = sum(number.new for number in failed)
    if failed and earlier:
        parts.insert(1, f"{new} of them new since the last run" if new else "none of them new since the last run")
    if latencies:
        parts.append(describe_cases(latencies))
    joint = [finding.subject for finding in run.joint if finding.changed]
    if joint:
        parts.append(f"changed over all numbers together: {', '.join(joint)}")
    if any(run_failures.unfinished(run)):
        parts.append("the session was stopped")
    parts += run_failures.failed_tests(run)
    # Under strict the third says what the first does.
    lacks = [*run_failures.numbers_without_verdict(run), *run_failures.nothing_compared(run)]
    parts += dict.fromkeys([*lacks, *run_failures.incomplete_parts(run)])
    text = "; ".join(parts)
    return f"{text[0].upper()}{text[1:]}."


def describe_cases(latencies: Sequence[TimedCase]) -> str:
    """How many kernel cases failed, by outcome, and how many were measured."""
    cases = count_noun(len(latencies), "kernel case")
    failed = Counter(case.outcome.lower() for case in latencies if fails(case.outcome))
    if failed:
        return f"of {cases} {', '.join(f'{count} {outcome}' for outcome, count in sorted(failed.items()))}"
    timed = sum(meaning_of(case.outcome) is not Meaning.BROKEN for case in latencies)
    return f"none of {cases} slower" + ("" if timed == len(latencies) else f", {timed} measured")


def count_noun(number: int, what: str) -> str:
    """`1 number`, `2 numbers`."""
    return f"{number} {what}{'' if number == 1 else 's'}"
