"""2. What differs from the good run, and from where the number was published.  Pure."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from scanproof.triage import moves
from scanproof.triage.differences import Difference, between
from scanproof.triage.evidence import Evidence, Side
from scanproof.triage.finding import Finding, FindingKind, FindingState, make_finding
from scanproof.triage.moves import Task

SHOWN = 8
finding = partial(make_finding, FindingKind.ENVIRONMENT)


def check(evidence: Evidence) -> list[Finding]:
    """Differences of the environment, each group as strong as what it is known to do."""
    now = evidence.now
    if now is None:
        return []
    findings: list[Finding] = []
    if evidence.before is not None:
        differ = [each for each in between(evidence.before, now) if not harmless(evidence, each)]
        moved = moves.have_answers_moved(evidence)
        findings += harness(evidence, evidence.before, [each for each in differ if each.group == "harness"])
        findings += inputs(evidence, differ, moved)
        findings += suspects(evidence, differ, moved)
        findings += others(evidence, differ, evidence.before)
    elif evidence.recorded is not None:
        differ = between(evidence.recorded, now)
        findings += harness(evidence, evidence.recorded, [each for each in differ if each.group == "harness"])
    return [shorten(each) for each in (*findings, *published(evidence))]


def shorten(environment_finding: Finding) -> Finding:
    """The finding with no more evidence than people read."""
    lines = environment_finding.evidence
    if len(lines) <= SHOWN:
        return environment_finding
    return replace(environment_finding, evidence=(*lines[:SHOWN], f"and {len(lines) - SHOWN} more"))


def harmless(evidence: Evidence, difference: Difference) -> bool:
    """Whether it is the engine that differs, and both engines gave the same answers in this very run."""
    both = evidence.engines
    return difference.what == "engine" and both is not None and both.agree


def harness(evidence: Evidence, side: Side, differ: list[Difference]) -> list[Finding]:
    """lm-eval is another one: does it ask other questions, or score the same answers differently?"""
    if not differ:
        return []
    tasks = moves.pair_tasks(evidence, side)
    told = [str(each) for each in differ]
    scored = [line for task in tasks for line in scored_differently(task, side)]
    asked = [task.name for task in tasks if not moves.has_same_questions(task)]
    same_data = data_is_the_same(evidence, side, tasks)
    if scored:
        title = "another lm-eval: the same answers get other scores"
        return [finding(FindingState.CAUSE, title, [*told, *scored], bisect(evidence))]
    if asked and same_data:
        title = "another lm-eval: it asks other questions"
        told.append(f"other prompts or answers to choose from in {', '.join(asked)}; the data is the same")
        return [finding(FindingState.CAUSE, title, told, bisect(evidence))]
    moved = moves.have_answers_moved(evidence)
    state = FindingState.SUSPECT if moved or asked else FindingState.UNKNOWN
    said = "and answers moved" if moved else "nothing shows that it matters here"
    return [finding(state, f"another lm-eval, {said}", told, bisect(evidence))]


def data_is_the_same(evidence: Evidence, side: Side, tasks: list[Task]) -> bool:
    """Whether other questions cannot come from other data: the documents are the same, or the files they come from."""
    if all(task.before.samples.documents_hash == task.now.samples.documents_hash for task in tasks):
        return True
    if side.parts is None or evidence.now is None or evidence.now.parts is None:
        return False
    return not any(each.group == "dataset" for each in between(side, evidence.now))


def scored_differently(task: Task, side: Side) -> list[str]:
    """Documents whose answers are the same and whose score is another."""
    if not task.pairable:
        return []
    old, new = task.before.samples, task.now.samples
    if task.metric not in old.metrics or task.metric not in new.metrics:
        return []
    rows = zip(moves.measure_moves(task), old.metrics[task.metric], new.metrics[task.metric], strict=True)
    limit = moves.find_threshold(side)
    # A tie may be broken either way by the smallest rounding.
    odd = [
        doc for (doc, moved), first, second in rows if moved <= limit and first != second and not near(task, doc, limit)
    ]
    if not odd:
        return []
    some = ", ".join(str(doc) for doc in odd[:5])
    return [f"{task.name}: {task.metric} of {len(odd)} documents differs, their answers do not (doc_id {some})"]


def near(task: Task, doc: int, limit: float) -> bool:
    """Whether the two best answers of a document are so close that rounding decides; or the score is a smooth one.

    Args:
        limit: nats by which rounding can move each of the two.
    """
    samples = task.now.samples
    place = samples.doc_ids.index(doc)
    if samples.metrics[task.metric][place] not in (0.0, 1.0):
        return True
    values = sorted(samples.loglikelihoods[place], reverse=True)
    return len(values) > 1 and values[0] - values[1] <= 2 * limit


def inputs(evidence: Evidence, differ: list[Difference], moved: bool | None) -> list[Finding]:
    """What the computation starts from: dtype, weights, the job's own arguments.  It always moves answers."""
    names = {"dtype": "another dtype", "weights": "another checkpoint", "job": "the job is another one"}
    changed = [each for each in differ if each.group in names and each.what != "job batch_size"]
    if not changed:
        return []
    what = ", ".join(dict.fromkeys(names[each.group] for each in changed))
    if moved is False:
        return [
            finding(
                FindingState.UNKNOWN, f"{what}, but no answer moved beyond rounding", [str(each) for each in changed]
            )
        ]
    state = FindingState.CAUSE if moved else FindingState.SUSPECT
    return [finding(state, f"{what}: the answers are those of another computation", [str(each) for each in changed])]


def suspects(evidence: Evidence, differ: list[Difference], moved: bool | None) -> list[Finding]:
    """Packages, drivers and code that the numbers go through."""
    own = [str(each) for each in differ if each.group == "own code"]
    others = [str(each) for each in differ if each.group == "computes"] + list(evidence.changed_kernels)
    changed = [*own, *others]
    if not changed:
        return []
    assert evidence.before is not None
    title = f"what computes differs from {evidence.before.name}"
    if moved is False:
        return [finding(FindingState.UNKNOWN, f"{title}, but no answer moved beyond rounding", changed)]
    return [finding(FindingState.SUSPECT, title, changed, bisect(evidence) if others else own_changes(evidence.before))]


def own_changes(before: Side) -> str | None:
    """The command that shows what changed in scanproof itself, which no mixture of packages can find."""
    commit = (before.environment.get("source") or {}).get("commit")
    return f"git diff {commit} -- scanproof" if commit else None


def others(evidence: Evidence, differ: list[Difference], side: Side) -> list[Finding]:
    """What is not known to move a number, or that nothing differs at all."""
    changed = [str(each) for each in differ if each.group == "other" or each.what == "job batch_size"]
    if changed:
        title = f"differs from {side.name}, and is not known to move a number"
        return [finding(FindingState.UNKNOWN, title, changed)]
    if not differ and not evidence.changed_kernels:
        return [
            finding(FindingState.RULED_OUT, f"nothing that is recorded of the environment differs from {side.name}", [])
        ]
    return []


def published(evidence: Evidence) -> list[Finding]:
    """What differs from where the number was published: always much, and never shown to matter by itself."""
    now = evidence.now
    if now is None or not evidence.published:
        return []
    packages = {**(now.environment.get("packages") or {}), **device(now)}
    told = [
        f"{name}: published with {said}, here {packages.get(name) or 'none'}"
        for name, said in evidence.published.items()
        if not str(packages.get(name) or "").startswith(said)
    ]
    if not told:
        return []
    return [finding(FindingState.UNKNOWN, "the number was published from another environment", told)]


def device(side: Side) -> dict[str, str]:
    """GPU, driver and Python of an evaluation under the names that documents use."""
    gpus = side.environment.get("gpus") or [{}]
    return {
        "gpu": str(gpus[0].get("name", "")), "driver": str(gpus[0].get("driver_version", "")),
        "cuda": str(side.environment.get("cuda") or ""), "python": str(side.environment.get("python", "")),
    }  # fmt: skip


def bisect(evidence: Evidence) -> str:
    """The command that finds the package."""
    return f"scanproof bisect --good VENV_OR_LOCK --bad VENV_OR_LOCK --number {evidence.number}"
