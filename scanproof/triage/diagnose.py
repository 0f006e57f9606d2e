"""Evidence -> ordered findings.  Pure."""

from __future__ import annotations

from scanproof.triage.checks import broken, engines, environment, fallback, kernel, numerics, package, task
from scanproof.triage.evidence import Evidence
from scanproof.triage.finding import Finding, FindingKind, FindingState, ordered

CHECKS = (
    broken.check,
    environment.check,
    task.check,
    fallback.check,
    engines.check,
    numerics.check,
    kernel.check,
    package.check,
)
"""In the order of what their evidence costs."""


def diagnose(evidence: Evidence) -> tuple[Finding, ...]:
    """Everything triage can say of one number; the first finding is what it holds to be the reason."""
    found = [finding for check in CHECKS for finding in check(evidence)]
    if not evidence.failed and not any(
        each.state is FindingState.CAUSE and each.kind is not FindingKind.NOISE for each in found
    ):
        nothing = Finding(
            kind=FindingKind.NOTHING, state=FindingState.CAUSE, title=f"the number did not fail: {evidence.outcome}",
            evidence=(evidence.because,),
        )  # fmt: skip
        return (nothing, *ordered(found))
    if not any(each.state is FindingState.CAUSE for each in found):
        return (unexplained(evidence, found), *ordered(found))
    return ordered(found)


def unexplained(evidence: Evidence, found: list[Finding]) -> Finding:
    """Nothing that is known explains the number."""
    suspects = [each.title for each in ordered(found) if each.state is FindingState.SUSPECT]
    told = [f"suspected, not shown: {title}" for title in suspects] or ["nothing is suspected either"]
    follow = next((each.next for each in ordered(found) if each.next), None)
    return Finding(
        kind=FindingKind.UNEXPLAINED, state=FindingState.CAUSE, title="unexplained by what is known",
        evidence=(*told, *evidence.notes), next=follow,
    )  # fmt: skip
