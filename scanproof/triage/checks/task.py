"""3. The questions are not the same: dataset, prompt, definition, shots, tokens.  Pure."""

from __future__ import annotations

import difflib
import textwrap
from collections.abc import Mapping
from functools import partial
from typing import Any

from scanproof.triage import moves
from scanproof.triage.differences import Difference, between
from scanproof.triage.evidence import Evidence, Side
from scanproof.triage.finding import Finding, FindingKind, FindingState, make_finding
from scanproof.triage.moves import Task

SHOWN = 6
WIDTH = 100
finding = partial(make_finding, FindingKind.TASK)


def check(evidence: Evidence) -> list[Finding]:
    """Everything about what was asked."""
    sides = [side for side in (evidence.before, evidence.recorded) if side is not None]
    if evidence.now is None or not sides:
        return []
    findings = next((some for side in sides if (some := questions(evidence, side))), [])
    differ = between(sides[0], evidence.now)
    findings += tokens(evidence, [each for each in differ if each.group == "tokens"])
    if findings:
        return findings
    definitions = [str(each) for each in differ if each.group in ("definition", "dataset")]
    if definitions:
        title = "files of the task differ, the questions that were asked do not"
        return [finding(FindingState.UNKNOWN, title, definitions)]
    if any(moves.pair_tasks(evidence, side) for side in sides):
        return [finding(FindingState.RULED_OUT, "documents, prompts and answers to choose from are the same", [])]
    return []


def questions(evidence: Evidence, side: Side) -> list[Finding]:
    """Documents and prompts that differ from one side's, one finding per task."""
    assert evidence.now is not None
    files = [each for each in between(side, evidence.now) if each.group in ("dataset", "definition", "shots")]
    findings = []
    for task in moves.pair_tasks(evidence, side):
        if moves.has_same_questions(task):
            continue
        changed = [str(each) for each in files][:3]
        what, lines = named(task)
        state, said = verdict(task, side)
        findings.append(
            finding(state, f"{task.name}: {what}", [*lines, *said, *changed, *first_difference(task, side)])
        )
    return findings


def named(task: Task) -> tuple[str, list[str]]:
    """What differs, and the facts."""
    old, new = task.before, task.now
    lines = []
    if old.num_fewshot is not None and old.num_fewshot != new.num_fewshot:
        lines.append(f"shots: {old.num_fewshot} -> {new.num_fewshot}")
    if old.version is not None and old.version != new.version:
        lines.append(f"version of the task: {old.version} -> {new.version}")
    counts = len(old.samples.doc_ids), len(new.samples.doc_ids)
    if counts[0] != counts[1]:
        return "the dataset changed", [f"documents: {counts[0]} -> {counts[1]}", *lines]
    if old.samples.documents_hash != new.samples.documents_hash:
        changed = different(task, ("doc_hash", "target_hash"))
        return "the dataset changed", [f"documents that differ: {told(changed, counts[1])}", *lines]
    if old.samples.prompts_hash != new.samples.prompts_hash:
        changed = different(task, ("prompt_hash",))
        what = "the number of shots changed" if lines and lines[0].startswith("shots") else "the prompt changed"
        return what, [f"prompts that differ: {told(changed, counts[1])}", *lines]
    changed = moves.find_other_choices(task)
    return "the answers to choose from changed", [f"documents that differ: {told(changed, counts[1])}", *lines]


def told(changed: list[int] | None, count: int) -> str:
    if changed is None:
        return f"some of {count} (the good run keeps one digest for all of them)"
    return f"{len(changed)} of {count}"


def different(task: Task, hashes: tuple[str, ...]) -> list[int] | None:
    """Documents whose hashes differ; None where they were not kept one by one."""
    old, new = task.before.rows, task.now.rows
    if old is None or new is None:
        return None
    return [
        doc for doc, row in sorted(new.items()) if doc not in old or any(row[name] != old[doc][name] for name in hashes)
    ]


def verdict(task: Task, side: Side) -> tuple[FindingState, list[str]]:
    """Changed questions explain the number, unless documents that did not change moved too."""
    changed = different(task, ("doc_hash", "target_hash", "prompt_hash"))
    changed = changed if changed is None else [*changed, *moves.find_other_choices(task)]
    if changed is None or not task.pairable:
        return FindingState.CAUSE, ["the number answers other questions than the one it is held against"]
    same = [moved for doc, moved in moves.measure_moves(task) if doc not in set(changed)]
    if not same:
        return FindingState.CAUSE, ["every question changed: nothing is left that could tell of kernels"]
    over = sum(moved > moves.find_threshold(side) for moved in same)
    if over:
        return FindingState.SUSPECT, [f"but {over} of {len(same)} documents whose question did not change moved too"]
    return FindingState.CAUSE, [f"the other {len(same)} documents answer as before: largest move {max(same):.2g} nats"]


def first_difference(task: Task, side: Side) -> list[str]:
    """The first document whose prompt or choices differ, as a diff."""
    old, new = task.before.texts, task.now.texts
    if old is None or new is None:
        return ["no diff: the questions of " + (side.name if old is None else "this run") + " were not kept"]
    for doc in sorted({*old, *new}):
        before, after = question(old.get(doc)), question(new.get(doc))
        if before != after:
            diff = difflib.unified_diff(before, after, f"doc_id {doc} before", "now", lineterm="", n=1)
            return list(diff)[:24]
    return []


def question(line: Mapping[str, Any] | None) -> list[str]:
    """Prompt and choices of a document as lines that a diff can compare."""
    if line is None:
        return []
    text = []
    for kind in ("prompts", "choices"):
        for part in line[kind]:
            rows = [row for piece in str(part).split("\n") for row in textwrap.wrap(piece, WIDTH) or [""]]
            text += [f"{kind[:-1]}: {rows[0]}", *(f"  {row}" for row in rows[1:])]
    return text


def tokens(evidence: Evidence, differ: list[Difference]) -> list[Finding]:
    """How text becomes tokens: BOS, tokenizer, truncation."""
    if not differ:
        return []
    moved = moves.have_answers_moved(evidence)
    title = "how the text becomes tokens changed (BOS, tokenizer or truncation)"
    if moved is False:
        return [
            finding(
                FindingState.UNKNOWN, f"{title}, but no answer moved beyond rounding", [str(each) for each in differ]
            )
        ]
    return [finding(FindingState.CAUSE if moved else FindingState.SUSPECT, title, [str(each) for each in differ])]
