"""The documents that two engines score most differently."""

from __future__ import annotations

import math
from collections.abc import Iterable

from scanproof.numbers.values import PublishedValue
from scanproof.numbers.verdict import baseline_gate
from scanproof.numbers.verdict.baseline_gate import TaskPair
from scanproof.numbers.verdict.engines import EngineDifference

APART = 8
"""Most documents that are named when the two engines disagree."""


def list_apart(pairs: Iterable[TaskPair], value: PublishedValue) -> tuple[EngineDifference, ...]:
    """The documents that two engines score most differently; documents whose score differs come first."""
    metrics = dict(baseline_gate.list_tasks(value))
    differences = []
    for pair in pairs:
        plain, shared = pair.before, pair.now
        scores = (side.metrics.get(metrics[plain.task], (None,) * len(plain.doc_ids)) for side in (shared, plain))
        rows = zip(plain.doc_ids, shared.loglikelihoods, plain.loglikelihoods, *scores, strict=True)
        for doc, mine, other, score, plain_score in rows:
            moved = [0.0 if a == b else a - b for a, b in zip(mine, other, strict=True)]
            finite = all(map(math.isfinite, moved))
            nats = max(moved, key=abs, default=0.0) if finite else None
            differences.append(
                EngineDifference(task=plain.task, doc_id=doc, nats=nats, shared=score, plain=plain_score)
            )
    differences.sort(key=lambda one: -math.inf if one.nats is None else -abs(one.nats))
    if value.binary:
        differences.sort(key=lambda one: one.shared == one.plain)
    return tuple(one for one in differences[:APART] if one.nats != 0.0)
