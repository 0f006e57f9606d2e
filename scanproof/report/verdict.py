"""What there is to say first: what failed, what is new, what is known, what could not run.  Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from scanproof.numbers.verdict.outcome import Meaning, Outcome, fails, meaning_of, names
from scanproof.record import Run
from scanproof.report.content import Number, Timed, Verdict


def conclude(
    run: Run, numbers: Sequence[Number], latencies: Sequence[Timed], drifts: Sequence[str], *, earlier: bool
) -> Verdict:
    """The verdict of a run.  Nothing that was not measured counts as a pass."""
    everything: list[Number | Timed] = [*numbers, *latencies]
    failed = sorted((each for each in numbers if fails(each.outcome)), key=lambda each: not each.new)
    slower = [each.id for each in latencies if fails(each.outcome)]
    new = tuple(each.id for each in everything if each.new)
    changed = [found for found in run.joint if found.changed]
    together = (*(f"all numbers of {found.subject} together: {found.because}" for found in changed), *drifts)
    not_run = by_reason(everything, names(Meaning.BROKEN))
    wrong = tuple(each.id for each in failed) + tuple(slower)
    bad = bool(wrong or changed)
    missing = (run.selected or 0) - len(run.records)
    return Verdict(
        state="failed" if bad else "incomplete" if not_run or missing > 0 or run.finished is None else "passed",
        sentence=sentence(run, numbers, latencies, missing, earlier=earlier),
        outcomes=dict(sorted(Counter(each.outcome for each in everything).items())),
        failed=wrong,
        new=new,
        fixed=tuple(each.id for each in numbers if each.fixed),
        known=tuple(each.id for each in numbers if each.outcome == Outcome.KNOWN_DISCREPANCY),
        not_run=not_run,
        not_compared=by_reason(numbers, frozenset({Outcome.NOT_COMPARABLE.value})),
        together=together,
    )


def by_reason(rows: Iterable[Number | Timed], outcomes: frozenset[str]) -> dict[str, tuple[str, ...]]:
    """Ids by why they ended so, the reason that most of them share first."""
    found: dict[str, list[str]] = {}
    for each in rows:
        if each.outcome in outcomes:
            found.setdefault(f"{each.outcome}: {each.because}", []).append(each.id)
    ordered = sorted(found.items(), key=lambda entry: -len(entry[1]))
    return {reason: tuple(ids) for reason, ids in ordered}


def sentence(run: Run, numbers: Sequence[Number], latencies: Sequence[Timed], missing: int, *, earlier: bool) -> str:
    """The verdict in one or two sentences."""
    judged = [each for each in numbers if meaning_of(each.outcome) is not Meaning.BROKEN]
    failed = [each for each in numbers if fails(each.outcome)]
    measured = f"{len(judged)} of {count(len(numbers), 'number')} measured" if numbers else "no number asked for"
    parts = [f"{count(len(failed), 'number')} failed" if failed else "no number failed", measured]
    new = sum(each.new and fails(each.outcome) for each in numbers)
    if failed and earlier:
        parts.insert(1, f"{new} of them new since the last run" if new else "none of them new since the last run")
    slower = sum(fails(each.outcome) for each in latencies)
    if latencies:
        parts.append(f"{count(slower, 'kernel case')} of {len(latencies)} slower" if slower else
                     f"none of {count(len(latencies), 'kernel case')} slower")  # fmt: skip
    joint = [found.subject for found in run.joint if found.changed]
    if joint:
        parts.append(f"changed over all numbers together: {', '.join(joint)}")
    if missing > 0:
        parts.append(f"{count(missing, 'selected number')} not reached, the session was stopped")
    elif run.finished is None:
        parts.append("the session was stopped")
    text = "; ".join(parts)
    return f"{text[0].upper()}{text[1:]}."


def count(number: int, what: str) -> str:
    """`1 number`, `2 numbers`."""
    return f"{number} {what}{'' if number == 1 else 's'}"
