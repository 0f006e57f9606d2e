"""Are the answers of a number answers at all: finite, possible, not all the same?  Asked before any comparison.  Pure.

lm-eval takes the first of answers that are all NaN or all equal.  Such an accuracy is the share of documents whose
first answer is right, which is near many a printed number.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise

from scanproof.numbers.verdict.answers import TaskSamples

MANTISSA_BITS = {"bfloat16": 8, "float16": 11, "float32": 24, "float64": 53}
"""dtype -> bits of its significand, the leading one included."""
LOGIT = 32.0
"""Size of a large logit.  A difference of two log-likelihoods is as coarse as the logits are."""
NEAR = 8
"""Steps of the dtype within which two answers are close."""
CHANCE = 3
"""Exact coincidences that chance alone may make."""
NAMED = 5
"""Documents that a message names."""


def explain_unusable(tasks: Sequence[TaskSamples], dtype: str) -> str | None:
    """Why the answers to these tasks are none, in words that name the first documents; None where they are usable.

    `dtype` is that of the model: float16 and bfloat16 have few numbers, so that correct answers coincide more often.
    """
    broken = explain_not_finite(tasks) or explain_too_likely(tasks)
    return broken or next(filter(None, (explain_ties(task, dtype) for task in tasks)), None)


def explain_not_finite(tasks: Sequence[TaskSamples]) -> str | None:
    """How many answers are no finite number or are missing, and in which documents; None where all are finite."""
    values = [value for task in tasks for answers in task.loglikelihoods for value in answers]
    broken = [value for value in values if not math.isfinite(value)]
    documents = [
        (task.task, doc)
        for task in tasks
        for doc, answers in zip(task.doc_ids, task.loglikelihoods, strict=True)
        if not answers or not all(map(math.isfinite, answers))
    ]
    if not documents:
        return None
    if not broken:
        return f"{len(documents)} documents got no answer: {name_documents(documents)}"
    kinds = ", ".join(f"{count} {kind}" for kind, count in Counter(map(str, broken)).most_common())
    total = sum(len(task.doc_ids) for task in tasks)
    return (
        f"{len(broken)} of {len(values)} answers are no finite number ({kinds}), "
        f"in {len(documents)} of {total} documents: {name_documents(documents)}"
    )


def explain_too_likely(tasks: Sequence[TaskSamples]) -> str | None:
    """Which documents got an answer that is likelier than certain, which no log-likelihood is; None without any."""
    documents = [
        (task.task, doc)
        for task in tasks
        for doc, answers in zip(task.doc_ids, task.loglikelihoods, strict=True)
        if max(answers) > 0
    ]
    if not documents:
        return None
    return f"answers to {len(documents)} documents have a log-likelihood above 0: {name_documents(documents)}"


def explain_ties(task: TaskSamples, dtype: str) -> str | None:
    """Why the answers of a task are equal where those of a correct run differ; None where they are not.

    A correct run makes equal answers where two fall into one step of its dtype.  Then more fall into the steps
    beside it.  So exact coincidences are explained only by as many close ones.
    """
    spread = [(max(answers) - min(answers), step_at(answers, dtype)) for answers in task.loglikelihoods if answers]
    several = any(len(answers) > 1 for answers in task.loglikelihoods)
    tied = [
        (task.task, doc)
        for doc, answers in zip(task.doc_ids, task.loglikelihoods, strict=True)
        if len(answers) > 1 and min(answers) == max(answers)
    ]
    close = sum(0 < width <= NEAR * step for width, step in spread)
    if several and len(tied) > CHANCE + close:
        return (
            f"all answers are exactly equal in {len(tied)} of {len(task.doc_ids)} documents "
            f"({close} would be explained by the steps of {dtype}, {CHANCE} by chance): {name_documents(tied)}"
        )
    return explain_repeats(task, dtype)


def explain_repeats(task: TaskSamples, dtype: str) -> str | None:
    """Why answers to different documents are exactly equal, far from any other; None where they differ.

    All logits equal give every answer of n tokens the log-likelihood -n log V: a handful of values, far apart.
    """
    counts = Counter(value for answers in task.loglikelihoods for value in set(answers))
    values = sorted(counts)
    if not values:
        # A log without a document: that its answers were not kept is said where a number needs them.
        return None
    gaps = [math.inf, *(high - low for low, high in pairwise(values)), math.inf]
    repeated = {
        value
        for value, around in zip(values, pairwise(gaps), strict=True)
        if counts[value] > 1 and min(around) > NEAR * step_at([value], dtype)
    }
    documents = [
        (task.task, doc)
        for doc, answers in zip(task.doc_ids, task.loglikelihoods, strict=True)
        if repeated.issuperset(answers)
    ]
    if 2 * len(documents) <= len(task.doc_ids) or len(documents) <= CHANCE:
        return None
    return (
        f"{len(documents)} of {len(task.doc_ids)} documents got answers that other documents got to the last bit, "
        f"{len(values)} different ones in all: {name_documents(documents)}"
    )


def step_at(answers: Iterable[float], dtype: str) -> float:
    """Distance of neighbouring numbers of a dtype, at the largest of these answers or of the logits behind them."""
    largest = max([LOGIT, *map(abs, answers)])
    return math.ldexp(1.0, math.frexp(largest)[1] - MANTISSA_BITS.get(dtype, 24))


def name_documents(documents: Sequence[tuple[str, int]]) -> str:
    """The first documents by task: `piqa 0, 1, 2; boolq 4 and 12 more`."""
    return "; ".join(_name_by_task(documents[:NAMED])) + (
        f" and {len(documents) - NAMED} more" if len(documents) > NAMED else ""
    )


def _name_by_task(documents: Iterable[tuple[str, int]]) -> Iterator[str]:
    by_task: dict[str, list[str]] = {}
    for task, doc in documents:
        by_task.setdefault(task, []).append(str(doc))
    for task, docs in by_task.items():
        yield f"{task} {', '.join(docs)}"
