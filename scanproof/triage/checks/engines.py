"""5. Did the engine that carries states over get other answers than lm-eval as it is?  Pure."""

from __future__ import annotations

from scanproof.numbers.verdict.engines import DISAGREE
from scanproof.numbers.verdict.outcome import Outcome
from scanproof.numbers.verdict.paired_tests import ComparisonOutcome
from scanproof.triage.evidence import Evidence
from scanproof.triage.finding import Finding, FindingKind, FindingState, make_finding

KERNELS = 'pytest {} -k "(split or decode or initial) and not latency"'
"""The kernel cases and invariants in which a state is carried over."""


def check(evidence: Evidence) -> list[Finding]:
    """What both engines measured, or that only the shared one was asked."""
    both = evidence.engines
    if both is None:
        return alone(evidence)
    comparison = both.finding
    gpu = evidence.now is not None and evidence.now.job is not None and evidence.now.job.device.startswith("cuda")
    command = KERNELS.format("-m gpu tests/kernels" if gpu else "tests/kernels")
    # Where answers were rejected as well, that is the error.
    is_cause = evidence.outcome == Outcome.ERROR and evidence.broken is None
    if both.broke is not None:
        title = "the shared engine broke, and plain measured: the machine, a kernel that carries a state, or the engine"
        state = FindingState.CAUSE if is_cause else FindingState.SUSPECT
        return [make_finding(FindingKind.ENGINES, state, title, both.lines(), command)]
    if comparison is None:
        title = "the shared engine measured nothing that can be compared; the number is plain's"
        return [make_finding(FindingKind.ENGINES, FindingState.UNKNOWN, title, both.lines())]
    if both.disagree:
        # A number that plain has wrong as well is not explained by it: one fault may well move both, and unlike.
        state = FindingState.CAUSE if evidence.outcome == Outcome.ENGINES_DISAGREE else FindingState.SUSPECT
        return [make_finding(FindingKind.ENGINES, state, DISAGREE, both.lines(), command)]
    if comparison.outcome is ComparisonOutcome.REFUSED:
        state = FindingState.CAUSE if is_cause else FindingState.UNKNOWN
        return [make_finding(FindingKind.ENGINES, state, comparison.because, both.lines())]
    title = "the engine: plain and shared give the same answers, document by document"
    return [make_finding(FindingKind.ENGINES, FindingState.RULED_OUT, title, both.lines())]


def alone(evidence: Evidence) -> list[Finding]:
    """Shared was asked for, and nothing else."""
    if evidence.now is None or evidence.now.engine != "shared" or not evidence.failed:
        return []
    title = "measured by the shared engine alone; plain may give another number"
    command = f"pytest tests/published -k {evidence.number} --scanproof-engine=auto"
    return [Finding(kind=FindingKind.ENGINES, state=FindingState.UNKNOWN, title=title, next=command)]
