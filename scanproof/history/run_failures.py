"""Why a run is not green: the one answer for sessions, pages, histories, baselines and triage.  Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from scanproof.kernels.latency.latency_verdict import Latency
from scanproof.numbers.verdict.outcome import fails, meaning_of, number_outcome
from scanproof.numbers.verdict.paired_tests import ComparisonOutcome
from scanproof.record import Record, Run

SHOWN = 3
"""Names in one line."""
CASES = "kernel cases"


UNFINISHED = "it did not finish: the session was stopped, or ended itself"


def list_failures(run: Run) -> list[str]:
    """Every reason why the run is not green, in words; empty where it is.  Of a run that its session has left."""
    return [*unfinished(run), *list_failures_so_far(run)]


def list_failures_so_far(run: Run) -> list[str]:
    """The same for the session itself, which has not finished while it asks."""
    reasons = [*bad_numbers(run), *bad_cases(run), *failed_tests(run), *changed_together(run), *incomplete_parts(run)]
    return reasons or list(ended_badly(run))


def unfinished(run: Run) -> Iterator[str]:
    """That the session did not finish: what it still had to find, nobody knows."""
    if run.finished is None:
        yield UNFINISHED


def untold_end(run: Run) -> Iterator[str]:
    """That a run does not say how its session ended; a finished one of before November 2026 does not, and stays green.

    Only who judges it again takes no run's word for it.
    """
    if run.finished is not None and run.exit_code is None:
        yield "it does not say how its session ended"


def list_published_failures(manifest: Mapping[str, Any]) -> list[str] | None:
    """What a history's manifest says of it; None where it is of before November 2026 and says nothing.

    A manifest may have been written before one that did not finish was said to be no green one.
    """
    listed: list[str] | None = manifest.get("failures")
    if manifest["finished"] is not None or UNFINISHED in (listed or ()):
        return listed
    return [UNFINISHED, *(listed or ())]


def ended_badly(run: Run) -> Iterator[str]:
    """That the session ended with another exit code than 0."""
    if run.exit_code:
        yield f"its session ended with exit code {run.exit_code}"


def list_certain_failures(run: Run) -> list[str]:
    """Every reason for which no session is green, strict or not: what is wrong, and what only others can have hidden.

    A number whose comparison is due without strict, a stand-in's, ends its test red by an error and is never skipped:
    where the exit code says otherwise, a mark or a hook of another plugin has called it so.
    """
    numbers = [kept for kept in run.records if is_never_green(run, kept)]
    cases = [case for case in run.latencies if fails(case.outcome)]
    return [
        *_by_outcome(numbers, len(run.records), "numbers"),
        *_by_outcome(cases, len(run.latencies), CASES),
        *changed_together(run),
        *numbers_not_reached(run),
        *numbers_of_others(run),
        *numbers_uncompared(run),
    ]


def is_never_green(run: Run, kept: Record) -> bool:
    """Whether a number speaks against its session, strict or not; one that is due is never skipped."""
    return fails(kept.outcome) or (meaning_of(kept.outcome).is_bad and kept.id in run.due)


def bad_numbers(run: Run) -> Iterator[str]:
    """The numbers that failed or were not measured, a line per outcome."""
    bad = [kept for kept in run.records if meaning_of(kept.outcome).is_bad]
    return _by_outcome(bad, len(run.records), "numbers")


def bad_cases(run: Run) -> Iterator[str]:
    """The kernel cases that failed, a line per outcome; under strict those that were not measured as well."""
    return _by_outcome([case for case in run.latencies if is_bad_case(run, case)], len(run.latencies), CASES)


def _by_outcome(results: Iterable[Record | Latency], count: int, what: str) -> Iterator[str]:
    by_outcome: dict[str, list[str]] = {}
    for result in results:
        by_outcome.setdefault(result.outcome, []).append(result.id)
    for outcome, ids in by_outcome.items():
        yield f"{len(ids)} of {count} {what} are {outcome}: {name_some(ids)}"


def is_bad_case(run: Run, case: Latency) -> bool:
    """Whether a kernel case speaks against its run.  Without strict, one that was not measured is a skip."""
    return meaning_of(case.outcome).is_bad if run.strict else fails(case.outcome)


def failed_tests(run: Run) -> Iterator[str]:
    """The tests that failed, or were kept from failing, although nothing that they recorded says so."""
    told = {case.nodeid for case in run.latencies if is_bad_case(run, case)}
    left = [nodeid for nodeid in tests_without_number(run) if nodeid not in told]
    if left:
        yield f"{len(left)} tests failed without a record that says so: {name_some(left)}"


def tests_without_number(run: Run) -> list[str]:
    """Ids of the tests that failed and whose failure no number explains."""
    told = {kept.nodeid for kept in run.records if meaning_of(kept.outcome).is_bad}
    return [nodeid for nodeid in run.failed_tests if nodeid not in told]


def changed_together(run: Run) -> Iterator[str]:
    """What changed in many numbers together, or beside them."""
    for comparison in run.joint:
        if comparison.changed:
            yield f"{comparison.subject}: {comparison.because}"


def incomplete_parts(run: Run) -> Iterator[str]:
    """What a strict run lacks: verdicts, documents, evaluations, comparisons that were due; of others the last two.

    And what only its session knew.
    """
    yield from run.unkept
    if run.strict:
        yield from numbers_without_verdict(run)
        for evaluation in run.evaluations:
            if evaluation.job.limit is not None:
                yield f"{evaluation.job.name} was limited to the first {evaluation.job.limit} documents of each task"
    yield from numbers_of_others(run)
    yield from numbers_uncompared(run)


def numbers_of_others(run: Run) -> Iterator[str]:
    """That numbers have their verdict from an evaluation that the session neither made nor took from its store."""
    known = {evaluation.key for evaluation in run.evaluations}
    foreign = [kept.id for kept in run.records if kept.verdict is not None and kept.evaluation_key not in known]
    if foreign:
        yield f"{len(foreign)} numbers are of an evaluation that this session does not have: {name_some(foreign)}"


def numbers_without_verdict(run: Run) -> Iterator[str]:
    """That selected numbers were not reached, or left no verdict; nothing where all have one."""
    verdicts = [kept for kept in run.records if kept.verdict is not None or meaning_of(kept.outcome).is_bad]
    left = sorted(set(run.selected_ids) - {kept.id for kept in verdicts})
    missing = max((run.selected or 0) - len(verdicts), len(left))
    if missing > 0:
        yield f"{missing} of {run.selected} selected numbers have no verdict{f': {name_some(left)}' if left else ''}"


def numbers_not_reached(run: Run) -> Iterator[str]:
    """That selected numbers have no record, not even that they were skipped."""
    left = sorted(set(run.selected_ids) - {kept.id for kept in run.records})
    if left:
        yield f"{len(left)} of {run.selected} selected numbers were not reached: {name_some(left)}"


def numbers_uncompared(run: Run) -> Iterator[str]:
    """That numbers pass although the comparison that was due of them was not made."""
    uncompared = [kept.id for kept in run.records if kept.id in run.due and passes_uncompared(kept)]
    if uncompared:
        yield f"{len(uncompared)} numbers pass without the comparison that was due: {name_some(uncompared)}"


def nothing_compared(run: Run) -> Iterator[str]:
    """That numbers were measured and not one was compared: no failure, and no pass either."""
    measured = [kept for kept in run.records if not meaning_of(kept.outcome).is_bad]
    if measured and not any(map(is_compared, measured)):
        limited = f"the jobs were limited to the first {run.limit} documents of each task"
        yield f"nothing was compared: {measured[0].because if run.limit is None else limited}"


def is_compared(kept: Record) -> bool:
    """Whether a number was compared with what is printed, or its documents with a baseline."""
    return number_outcome(kept.outcome).says_whether_it_is_as_before or has_compared_documents(kept)


def passes_uncompared(kept: Record) -> bool:
    """Whether a number is not bad although nothing compared its documents."""
    return not has_compared_documents(kept) and not meaning_of(kept.outcome).is_bad


def has_compared_documents(kept: Record) -> bool:
    """Whether a number's documents were compared with a baseline."""
    return kept.gate is not None and kept.gate.outcome is not ComparisonOutcome.REFUSED


def name_some(ids: Iterable[str], most: int = SHOWN) -> str:
    """The first names, and how many more there are."""
    names = list(ids)
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
