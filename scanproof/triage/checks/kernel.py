"""7. Which operation: what scoring again with replaced operations says.  Pure."""

from __future__ import annotations

from functools import partial

from scanproof.triage.evidence import Departure, Evidence, Substituted
from scanproof.triage.finding import Finding, FindingKind, FindingState, make_finding

RESTORES = 0.1
"""An operation is named when replacing it leaves at most this share of the distance to the reference answers."""


CASES = {
    "ssd": "mamba_chunk_scan_combined",
    "rms_norm": "rms_norm_fn",
    "gated_rms_norm": "rmsnorm_fn",
    "scaled_dot_product_attention": "flash_attn_func",
}
"""Functions of the stand-ins whose kernel cases have another name."""
finding = partial(make_finding, FindingKind.KERNEL)


def check(evidence: Evidence) -> list[Finding]:
    """The operation whose replacement restores the answers, if there is exactly one."""
    tried = evidence.substituted
    if tried is None:
        return []
    lines = [scored(tried), *(row(tried, each.operation, each.distance, each.restored) for each in tried.trials)]
    lines.append(f"every operation replaced: {tried.all_replaced:.2g} nats")
    if tried.as_is <= tried.limit:
        title = "scored again as they are, the answers are the reference's: this machine does not show the fault now"
        return [finding(FindingState.UNKNOWN, title, lines)]
    restoring = [each.operation for each in tried.trials if restores(tried, each.distance)]
    if len(restoring) == 1:
        lines += departure(tried.departure, tried.why_no_departure)
        title = f"{restoring[0]}: replacing it by its float64 reference restores the answers, no other does"
        return [finding(FindingState.CAUSE, title, lines, tests(evidence, restoring[0]))]
    if restoring:
        title = f"several replacements restore the answers ({', '.join(restoring)}): none is named"
    elif restores(tried, tried.all_replaced):
        title = "no replacement alone restores the answers, all together do: more than one operation is wrong"
    else:
        title = "no operation: with all of them replaced the answers are still others (weights, tokens, linear layers)"
    return [finding(FindingState.UNKNOWN, title, [*lines, *departure(tried.departure, tried.why_no_departure)])]


def tests(evidence: Evidence, operation: str) -> str:
    """The command that tests the operation: a stand-in computes with the references, not with installed kernels."""
    job = evidence.now.job if evidence.now is not None else None
    if job is not None and job.suite == "embedded":
        return "pytest tests/kernels_unit/test_reference.py"
    return f"pytest tests/kernels -k {CASES.get(operation, operation)}"


def restores(tried: Substituted, distance: float) -> bool:
    """Whether the answers came back: to rounding, or almost all of the way."""
    return distance <= max(tried.limit, RESTORES * tried.as_is) and distance < tried.as_is


def scored(tried: Substituted) -> str:
    """What was scored again."""
    some = ", ".join(str(doc) for doc in tried.documents[:8])
    more = f" and {len(tried.documents) - 8} more" if len(tried.documents) > 8 else ""
    return (
        f"{len(tried.documents)} documents of {tried.task} scored again (doc_id {some}{more}); as they are, "
        f"{tried.as_is:.2g} nats from the reference answers on average"
    )


def row(tried: Substituted, operation: str, distance: float, restored: int) -> str:
    return f"{operation} replaced: {distance:.2g} nats, {restored} of {tried.answers} answers restored"


def departure(found: Departure | None, why: str | None) -> list[str]:
    """Where the model leaves the float64 run."""
    if found is None:
        return [f"where it leaves the float64 run is not known: {why}"] if why else []
    return [
        f"leaves the float64 run first in layer {found.layer} at position {found.position} of document "
        f"{found.document}: relative error {found.error:.2g}, {found.allowed:.2g} explained by the dtype"
    ]
