"""8. Which package: what `scanproof bisect` found for this number.  Pure."""

from __future__ import annotations

from scanproof.triage.evidence import Evidence
from scanproof.triage.finding import Finding, FindingKind, FindingState


def check(evidence: Evidence) -> list[Finding]:
    """The packages that a bisection named, where this run has the versions that were bad."""
    bisected = evidence.bisected
    if bisected is None or not bisected.packages or evidence.now is None:
        return []
    here = evidence.now.environment.get("packages") or {}
    lines = [f"{name}: {good or 'none'} is good, {bad or 'none'} is bad" for name, good, bad in bisected.versions]
    lines.append(bisected.because)
    seen = [name for name, _, bad in bisected.versions if name in here and here[name] == bad]
    other = [name for name, _, bad in bisected.versions if name in here and here[name] != bad]
    if other:
        return []
    names = " and ".join(bisected.packages)
    if len(seen) < len(bisected.packages):
        title = f"{names} moved this number in a bisection; its version in this run was not recorded"
        return [Finding(kind=FindingKind.PACKAGE, state=FindingState.UNKNOWN, title=title, evidence=tuple(lines))]
    state = FindingState.CAUSE if bisected.alone else FindingState.SUSPECT
    return [Finding(kind=FindingKind.PACKAGE, state=state, title=f"{names} moves this number", evidence=tuple(lines))]
