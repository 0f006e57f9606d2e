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
    findings = [finding for check in CHECKS for finding in check(evidence)]
    if not evidence.failed and not any(
        finding.state is FindingState.CAUSE and finding.kind is not FindingKind.NOISE for finding in findings
    ):
        nothing = Finding(
            kind=FindingKind.NOTHING, state=FindingState.CAUSE, title=f"the number did not fail: {evidence.outcome}",
            evidence=(evidence.because,),
        )  # fmt: skip
        return (nothing, *ordered(findings))
    if not any(finding.state is FindingState.CAUSE for finding in findings):
        return (unexplained(evidence, findings), *ordered(findings))
    return ordered(findings)


def unexplained(evidence: Evidence, findings: list[Finding]) -> Finding:
    """Nothing that is known explains the number."""
    suspects = [finding.title for finding in ordered(findings) if finding.state is FindingState.SUSPECT]
    told = [f"suspected, not shown: {title}" for title in suspects] or ["nothing is suspected either"]
    follow = next((finding.next for finding in ordered(findings) if finding.next), None)
    return Finding(
        kind=FindingKind.UNEXPLAINED, state=FindingState.CAUSE, title="unexplained by what is known",
        evidence=(*told, *evidence.notes), next=follow,
    )  # fmt: skip
