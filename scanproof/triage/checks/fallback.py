"""4. A kernel that the number needs did not run.  Pure."""

from __future__ import annotations

from scanproof.kernels.launches import proof
from scanproof.triage.checks.broken import told
from scanproof.triage.evidence import Evidence
from scanproof.triage.finding import Finding, FindingKind, FindingState


def check(evidence: Evidence) -> list[Finding]:
    """The job ran something else than the kernels it names."""
    title = "a kernel that the number needs did not run: a fallback was measured"
    if evidence.broken is not None and evidence.broken.kind == "fallback":
        return [
            Finding(
                kind=FindingKind.FALLBACK, state=FindingState.CAUSE, title=title, evidence=told(evidence.broken),
                next="scanproof doctor",
            )
        ]  # fmt: skip
    now = evidence.now
    if now is None or now.job is None or not now.job.kernels:
        return []
    missing = proof.find_missing_kernels(now.job.kernels, now.kernels)
    if missing:
        return [
            Finding(
                kind=FindingKind.FALLBACK,
                state=FindingState.CAUSE,
                title=title,
                evidence=tuple(kernel.text for kernel in missing),
                next="scanproof doctor",
            )
        ]
    names = ", ".join(now.job.kernels)
    return [
        Finding(
            kind=FindingKind.FALLBACK,
            state=FindingState.RULED_OUT,
            title=f"no fallback: the kernels it needs ran ({names})",
        )
    ]
