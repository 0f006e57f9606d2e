"""7. Which operation: what scoring again with replaced operations says.  Pure."""

from __future__ import annotations

from functools import partial

from scanproof.triage.evidence import Departure, Evidence, Substituted, Trial
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
    lines = [scored(tried), *(row(tried, each) for each in tried.trials)]
    lines.append(f"every operation replaced: {tried.deciding_all:.2g} nats at most")
    if tried.deciding_as_is <= tried.limit:
        title = "scored again as they are, the answers are the reference's: this machine does not show the fault now"
        return [finding(FindingState.UNKNOWN, title, lines)]
    restoring = [each.operation for each in tried.trials if restores(tried, each.deciding)]
    if len(restoring) == 1:
        lines += departure(tried.departure, tried.why_no_departure)
        title = f"{restoring[0]}: replacing it by its float64 reference restores the answers, no other does"
        return [finding(FindingState.CAUSE, title, lines, tests(evidence, restoring[0]))]
    if restoring:
        title = f"several replacements restore the answers ({', '.join(restoring)}): none is named"
    elif restores(tried, tried.deciding_all):
        title = "no replacement alone restores the answers, all together do: more than one operation is wrong"
    else:
        title = "no operation: with all of them replaced the answers are still others (weights, tokens, linear layers)"
    return [finding(FindingState.UNKNOWN, title, [*lines, *departure(tried.departure, tried.why_no_departure)])]


def tests(evidence: Evidence, operation: str) -> str:
    """The command that tests the operation: a stand-in computes with the references, not with installed kernels."""
    job = evidence.now.job if evidence.now is not None else None
    if job is not None and job.suite == "embedded":
        return "pytest tests/kernels_unit/test_paper_formulas.py"
    return f"pytest tests/kernels -k {CASES.get(operation, operation)}"


def restores(tried: Substituted, distance: float) -> bool:
    """Whether the answers came back: to rounding, or almost all of the way; by the largest move, as in the gate."""
    return distance <= max(tried.limit, RESTORES * tried.deciding_as_is) and distance < tried.deciding_as_is


def scored(tried: Substituted) -> str:
    """What was scored again."""
    some = ", ".join(str(doc) for doc in tried.documents[:8])
    more = f" and {len(tried.documents) - 8} more" if len(tried.documents) > 8 else ""
    return (
        f"{len(tried.documents)} documents of {tried.task} scored again (doc_id {some}{more}); as they are, "
        f"{tried.deciding_as_is:.2g} nats from the reference answers at most, {tried.as_is:.2g} on average"
    )


def row(tried: Substituted, trial: Trial) -> str:
    return (
        f"{trial.operation} replaced: {trial.deciding:.2g} nats at most, {trial.restored} of {tried.answers} answers "
        "restored"
    )


def departure(departure: Departure | None, why: str | None) -> list[str]:
    """Where the model leaves the float64 run."""
    if departure is None:
        return [f"where it leaves the float64 run is not known: {why}"] if why else []
    return [
        f"leaves the float64 run first in layer {departure.layer} at position {departure.position} of document "
        f"{departure.document}: relative error {departure.error:.2g}, {departure.allowed:.2g} explained by the dtype"
    ]
