"""The verdict on a number by all gates: print, then its answers, then its baseline, then both engines.  Pure.

Sessions, and whatever judges again what a session left, take their verdicts from `conclude`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from scanproof.numbers.verdict.engines import DISAGREE, Engines
from scanproof.numbers.verdict.outcome import Outcome
from scanproof.numbers.verdict.paired_tests import ComparisonOutcome, PairedComparison
from scanproof.numbers.verdict.tolerance import Verdict


@dataclass(frozen=True)
class Judged:
    """The verdict on a number, and the comparison with its baseline that went into it."""

    verdict: Verdict
    comparison: PairedComparison | None
    """None where there is no baseline, and none is due; also where the answers were rejected before any comparison."""


def conclude(
    first: Verdict,
    comparison: PairedComparison | None,
    engines: Engines | None,
    *,
    due: bool,
    engines_due: bool = False,
) -> Verdict:
    """The verdict of all gates together; one that is bad already stays as it is.

    Args:
        first: the verdict against the printed number.
        comparison: document by document with the baseline.
        engines: what both engines measured.
        due: the comparison has to be made: without it the number does not pass.
        engines_due: what both engines measured has to be compared, as in a strict session.
    """
    return with_engines(with_comparison(first, comparison, due=due), engines, due=engines_due)


def with_comparison(verdict: Verdict, comparison: PairedComparison | None, *, due: bool) -> Verdict:
    """The verdict, changed where the documents are not as in the baseline, or were not compared although it was due."""
    if not verdict.outcome.can_still_change:
        return verdict
    if comparison is not None and comparison.changed:
        return replace(verdict, outcome=Outcome.CHANGED, because=comparison.because)
    if due and (comparison is None or comparison.outcome is ComparisonOutcome.REFUSED):
        because = explain_missing(comparison)
        return replace(verdict, outcome=Outcome.COMPARISON_MISSING, because=because)
    return verdict


def without_answers(verdict: Verdict, missing: str, *, needed: bool) -> Verdict:
    """The verdict where a number cannot be made again from its answers: an ERROR where that is needed.

    Nothing shows then what the number is made of, so that nothing may be concluded from it.  Elsewhere the reason
    stands beside the verdict.  One that is bad already stays as it is.

    Args:
        verdict: against the printed number.
        missing: what was not kept.
        needed: the number may not pass without it.
    """
    if not verdict.outcome.can_still_change:
        return verdict
    if not needed:
        because = f"{verdict.because}; its scores were not made again: {missing}"
        return replace(verdict, because=because, not_made_again=missing)
    because = (
        f"its scores cannot be made again: {missing}; measure it again; where a hook "
        "measures, let it keep the answers as `scanproof.plugin.hookspecs` says"
    )
    return replace(
        verdict, outcome=Outcome.ERROR, because=because, allowance=None, documents_moved=None, sigmas=None,
        not_made_again=missing,
    )  # fmt: skip


def explain_missing(comparison: PairedComparison | None) -> str:
    """Why a comparison that is due could not be made, and what to do, in one line."""
    if comparison is None:
        return "it has a baseline on this machine, but none for this evaluation on the GPU that it ran on"
    remedy = f"; {comparison.remedy}" if comparison.remedy else ""
    return f"{comparison.because}{remedy}"


def with_engines(verdict: Verdict, engines: Engines | None, *, due: bool = False) -> Verdict:
    """Plain's verdict with what both engines measured.

    A number that would pass fails when the engines disagree.  Where their comparison is due it is an ERROR when it is
    not known whether they do: a kernel that breaks under one of them is no better than one that is wrong, and it may
    have been the machine.
    """
    if engines is None:
        return verdict
    verdict = replace(verdict, engines=engines)
    if not verdict.outcome.can_still_change:
        return verdict
    if engines.disagree:
        because = "; ".join([DISAGREE, *engines.lines()[:2]])
        return replace(verdict, outcome=Outcome.ENGINES_DISAGREE, because=because)
    if due and engines.why_unknown is not None:
        because = f"{engines.why_unknown}; --scanproof-engine=plain measures without the shared engine"
        return replace(
            verdict, outcome=Outcome.ERROR, because=because, allowance=None, documents_moved=None, sigmas=None
        )
    return verdict
