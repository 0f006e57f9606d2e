"""Documents that score otherwise than in the baseline although their answers do not say so.  Pure.

Noise moves a score only through the answers.  So one such document is a change, however small.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from scanproof.numbers.verdict.answers import TaskSamples
from scanproof.numbers.verdict.paired_tests import PairedTest
from scanproof.numbers.verdict.remaking import ScoreTerm, agree, say
from scanproof.numbers.verdict.scores import MissingEvidenceError, score_documents


def unexplained_test(
    compared: Iterable[tuple[TaskSamples, TaskSamples, ScoreTerm]], ceiling: float | None
) -> PairedTest | None:
    """A change where a document's score moved and its answers do not say why; None where there is no such document.

    Args:
        compared: the answers in the baseline and now, and what is made of them.
        ceiling: nats by which rounding can move an answer; None where that is not known.
    """
    told, documents = [], 0
    for before, now, term in compared:
        documents += len(now.doc_ids)
        places = find_unexplained(before, now, term, ceiling)
        told += [
            f"{now.task} document {now.doc_ids[place]}: {term.metric} {say(before.metrics[term.metric][place])} then, "
            f"{say(now.metrics[term.metric][place])} now" for place in places
        ]  # fmt: skip
    if not told:
        return None
    more = f" and {len(told) - 3} more" if len(told) > 3 else ""
    because = f"{len(told)} of {documents} documents score otherwise, though their answers do not say so: "
    return PairedTest(
        name="unexplained", documents=documents, p_value=None, level=None, changed=True,
        because=because + "; ".join(told[:3]) + more,
    )  # fmt: skip


def find_unexplained(before: TaskSamples, now: TaskSamples, term: ScoreTerm, ceiling: float | None) -> list[int]:
    """Places of the documents whose score moved, and whose answers do not say why."""
    old, new = before.metrics[term.metric], now.metrics[term.metric]
    moved = [place for place in range(len(new)) if new[place] is not None and not agree(old[place], new[place] or 0.0)]
    if not moved:
        return []
    then, today = score_by_rule(before, now, term), score_by_rule(now, now, term)
    if then is not None and today is not None:
        return [place for place in moved if not (agree(old[place], then[place]) and agree(new[place], today[place]))]
    return [place for place in moved if is_unmoved(before, now, place, ceiling or 0.0)]


def score_by_rule(answered: TaskSamples, now: TaskSamples, term: ScoreTerm) -> tuple[float, ...] | None:
    """What answers score by the right answers and lengths of today.

    None where the answers alone do not say it: whether an answer is greedy, for one, depends on the other tokens.
    """
    if term.metric == "acc" and all(len(answers) == 1 for answers in now.loglikelihoods):
        return None
    try:
        return score_documents(replace(now, loglikelihoods=answered.loglikelihoods), term.metric, binary=term.binary)
    except MissingEvidenceError:
        return None


def is_unmoved(before: TaskSamples, now: TaskSamples, place: int, ceiling: float) -> bool:
    """Whether no answer of a document moved by more than rounding can."""
    pairs = zip(before.loglikelihoods[place], now.loglikelihoods[place], strict=True)
    return all(then == answer or abs(answer - then) <= ceiling for then, answer in pairs)
