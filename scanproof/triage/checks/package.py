"""8. Which package: what `scanproof bisect` found for this number.  Pure."""

from __future__ import annotations

from scanproof.triage.evidence import Evidence
from scanproof.triage.finding import Finding, FindingKind, FindingState


def check(evidence: Evidence) -> list[Finding]:
    """The packages that a bisection named, where this run has the versions that were bad."""
    found = evidence.bisected
    if found is None or not found.packages or evidence.now is None:
        return []
    here = evidence.now.environment.get("packages") or {}
    lines = [f"{name}: {good or 'none'} is good, {bad or 'none'} is bad" for name, good, bad in found.versions]
    lines.append(found.because)
    seen = [name for name, _, bad in found.versions if name in here and here[name] == bad]
    other = [name for name, _, bad in found.versions if name in here and here[name] != bad]
    if other:
        return []
    names = " and ".join(found.packages)
    if len(seen) < len(found.packages):
        title = f"{names} moved this number in a bisection; its version in this run was not recorded"
        return [Finding(kind=FindingKind.PACKAGE, state=FindingState.UNKNOWN, title=title, evidence=tuple(lines))]
    state = FindingState.CAUSE if found.alone else FindingState.SUSPECT
    return [Finding(kind=FindingKind.PACKAGE, state=state, title=f"{names} moves this number", evidence=tuple(lines))]
