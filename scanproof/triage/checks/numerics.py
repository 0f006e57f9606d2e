"""6. The same questions, other answers: which documents flipped, and is that noise?  Pure.

Between two correct runs floating-point noise moves each document up as often as down, each on its own
(`scanproof.numbers.verdict.paired_tests`).  So there are two questions.  Direction: is there any way in which the moves
lean?  Size: is the largest move one that rounding can make?  Every p-value is exact or a bound; Holm's correction
(Scand. J. Statist. 6, 1979) covers all that are asked of one number.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from scanproof.numbers.verdict import baseline_gate, paired_tests
from scanproof.numbers.verdict.outcome import Outcome
from scanproof.triage import moves
from scanproof.triage.evidence import Evidence, Side
from scanproof.triage.finding import Finding, FindingKind, FindingState, make_finding
from scanproof.triage.moves import Task
from scanproof.triage.patterns import MovedDocument, describe_shared

LEVEL = 1e-3
"""Of all tests of one number together: a lean that noise shows once in a thousand numbers."""
SHOWN = 8


@dataclass(frozen=True)
class Lean:
    """One way in which moves can lean."""

    name: str
    p_value: float
    said: str


def check(evidence: Evidence) -> list[Finding]:
    """Are the moves of the answers noise?"""
    side = evidence.answers
    if evidence.now is None:
        return []
    if side is None:
        text = "there is nothing to hold the answers against: no good run of this job, and no recorded answers"
        return [
            Finding(
                kind=FindingKind.NUMERICS, state=FindingState.UNKNOWN, title=text, next=REPEAT.format(evidence.number)
            )
        ]
    tasks = [task for task in moves.pair_tasks(evidence, side) if moves.has_same_questions(task)]
    if not tasks:
        text = f"the answers cannot be compared with {side.name} document by document"
        return [Finding(kind=FindingKind.NUMERICS, state=FindingState.UNKNOWN, title=text)]
    return [judged(evidence, side, tasks)]


REPEAT = "pytest tests/published -k {} --scanproof-history=FOLDER  # then `scanproof baseline set latest` on a good one"


def judged(evidence: Evidence, side: Side, tasks: list[Task]) -> Finding:
    """What direction and size of the moves say together."""
    known = side.ceiling is not None
    largest = moves.find_largest_move(tasks) or 0.0
    documents = [document for task in tasks for document in documents_of(task)]
    lines = [flips_line(documents), *tie_lines(documents), size_line(largest, side), *number_lines(tasks)]
    command = None
    if evidence.substituted is None:
        command = f"scanproof triage {evidence.run} {evidence.number} --substitute --store {evidence.store}"
    # The session's verdict holds: what its gate has called changed is neither nothing nor noise here.
    changed = evidence.outcome == Outcome.CHANGED
    if known and largest <= moves.find_threshold(side) and not changed:
        title = f"nothing moved: every answer is that of {side.name} to rounding"
        if evidence.failed and not (evidence.engines and evidence.engines.disagree):
            title += "; what differs is the printed number, or how it is made of the answers"
        return Finding(kind=FindingKind.NOISE, state=FindingState.CAUSE, title=title, evidence=tuple(lines))
    leans = holm(list(questions(documents, evidence.margin)))
    lines += [lean.said for lean in leans] or [f"no lean: no test is below {LEVEL:g} after Holm's correction"]
    lines += describe_shared(documents)
    if changed:
        lines.append(f"the gate: {evidence.because}")
    if leans or known or changed:
        how = "lean one way" if leans else "moved further than rounding moves them, in no one direction"
        title = f"the computation changed: the questions are the same, the answers {how}"
        if not leans:
            lines.append("a lower precision or random numbers do this, and so do faults that have no direction")
        return Finding(
            kind=FindingKind.NUMERICS, state=FindingState.CAUSE, title=title, evidence=tuple(lines), next=command
        )
    title = f"noise of this size explains what moved since {side.name}"
    return make_finding(FindingKind.NOISE, FindingState.CAUSE, title, lines, command)


def documents_of(task: Task) -> list[MovedDocument]:
    """Every document of a task with what moved."""
    old, new = task.before.samples, task.now.samples
    pair = task.pair
    binary = all(score in (0.0, 1.0) for samples in (old, new) for score in samples.metrics.get(task.metric, (None,)))
    scores = pair.metric_changes(task.metric) if binary else None
    # The questions are the same, so that the right answers are; a file of recorded answers may not hold them.
    first, second = baseline_gate.right_answer_margins(old, new.right), baseline_gate.right_answer_margins(new)
    documents = []
    for place, doc in enumerate(new.doc_ids):
        line = (task.now.texts or {}).get(doc)
        length = len(line["prompts"][0]) + max(map(len, line["choices"]), default=0) if line else None
        documents.append(
            MovedDocument(
                task=task.name,
                doc=doc,
                place=place,
                length=length,
                target=new.targets[place],
                score=scores[place] if scores is not None else 0.0,
                margin=first[place] if first else None,
                moved=second[place] - first[place] if first and second else None,
                answers=tuple(
                    0.0 if a == b else b - a
                    for a, b in zip(old.loglikelihoods[place], new.loglikelihoods[place], strict=True)
                ),
            )
        )
    return documents


def questions(documents: list[MovedDocument], margin: float) -> Sequence[Lean]:
    """Ways in which a fault makes documents lean and noise does not; `margin` as in the second gate, in nats."""
    gained, lost = (sum(sign * each.score > 0.5 for each in documents) for sign in (1, -1))
    asked = []
    if gained or lost:
        p_value = paired_tests.mcnemar(gained, lost)
        asked.append(Lean("flips", p_value, f"{lost} flips lost against {gained} gained: p = {p_value:.2g}"))
    leads = [each.moved for each in documents if each.moved is not None]
    if leads:
        asked.append(shift("the lead of the right answer", leads, margin))
    # One value per document: the answers of one document share its prompt, and are not independent.
    asked.append(shift("the answers", [statistics.fmean(each.answers) for each in documents if each.answers], margin))
    ties = to_ties(documents)
    return [*asked, *([ties] if ties else [])]


def shift(name: str, moved: Sequence[float], margin: float) -> Lean:
    """Do moves of documents lean up or down?"""
    p_value = paired_tests.shift_p_value(moved, margin)
    mean = statistics.fmean(moved) if moved else 0.0
    return Lean(name, p_value, f"{name} moved by {mean:+.3g} nats on average of {len(moved)}: p <= {p_value:.2g}")


def to_ties(documents: list[MovedDocument]) -> Lean | None:
    """Of the documents that moved further than they were from a tie, half flip when moves are symmetric."""
    far = [document for document in documents if document.margin is not None and document.moved is not None
           and abs(document.moved) > abs(document.margin) > 0]  # fmt: skip
    if not far:
        return None
    from scipy.stats import binomtest

    towards = sum((document.moved or 0.0) * (document.margin or 0.0) < 0 for document in far)
    p_value = float(binomtest(towards, len(far), 0.5).pvalue)
    said = f"{towards} of {len(far)} documents that moved further than their margin moved across the tie"
    return Lean("across ties", p_value, f"{said}: p = {p_value:.2g}")


def holm(asked: list[Lean]) -> list[Lean]:
    """The leans that remain after Holm's correction, smallest p-value first."""
    kept: list[Lean] = []
    for place, lean in enumerate(sorted(asked, key=lambda lean: lean.p_value)):
        if lean.p_value > LEVEL / (len(asked) - place):
            break
        kept.append(lean)
    return kept


def flips_line(documents: list[MovedDocument]) -> str:
    """Which documents flipped."""
    flipped = [document for document in documents if abs(document.score) > 0.5]
    gained = sum(document.score > 0 for document in flipped)
    if not flipped:
        return f"no document of {len(documents)} flipped"
    some = ", ".join(f"{document.doc}{'+' if document.score > 0 else '-'}" for document in flipped[:SHOWN])
    more = f" and {len(flipped) - SHOWN} more" if len(flipped) > SHOWN else ""
    count = f"{len(flipped)} of {len(documents)} documents flipped: {gained} gained, {len(flipped) - gained} lost"
    return f"{count} (doc_id {some}{more})"


def tie_lines(documents: list[MovedDocument]) -> list[str]:
    """How close the flipped documents were to a tie, and how many flips noise of this size makes."""
    known = [(abs(document.margin), abs(document.moved), abs(document.score) > 0.5) for document in documents
             if document.margin is not None and document.moved is not None]  # fmt: skip
    if not known:
        return []
    could = sum(move > margin for margin, move, _ in known)
    lines = [f"flips that moves of this size make by chance: about {could / 2:g}"]
    flipped = [margin for margin, _, flip in known if flip]
    if flipped:
        others = [margin for margin, _, flip in known if not flip]
        apart = f", the others by {statistics.median(others):.2g}" if others else ""
        lines.insert(0, f"the flipped were decided by {statistics.median(flipped):.2g} nats (median){apart}")
    return lines


def size_line(largest: float, side: Side) -> str:
    """The largest move beside what rounding can do."""
    known = f"rounding can move one by {side.ceiling:g}" if side.ceiling is not None else None
    possible = known or "how far rounding moves one is not known here"
    return f"the answer that moved most since {side.name} moved by {largest:.2g} nats; {possible}"


def number_lines(tasks: list[Task]) -> list[str]:
    """What the documents' scores average to on both sides."""
    lines = []
    for task in tasks:
        both = [each.samples.metrics.get(task.metric) for each in (task.before, task.now)]
        means = [statistics.fmean(score for score in each if score is not None) for each in both if each]
        if len(means) == 2 and task.metric != "perplexity":
            lines.append(f"{task.metric} of {task.name}: {means[0]:.4f} there, {means[1]:.4f} now")
    return lines
