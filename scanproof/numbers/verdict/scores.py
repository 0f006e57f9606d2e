"""The score of each document and every aggregate, made again from the answers.  Pure; shares nothing with lm-eval.

    acc         1 if the likeliest answer is right; of a single answer, 1 if it is what the model would say itself
    acc_norm    the same with each log-likelihood divided by the length of its answer in characters (not in bytes)
    mass        the probability of the right answers, of all answers together (TruthfulQA mc2)
    perplexity  exp of minus the mean log-likelihood of a document

lm_eval/api/task.py, `process_results`, and lm_eval/tasks/truthfulqa/utils.py say the same in 0.4.12 and 0.4.13.  Of
answers that are equally likely the first counts.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import repeat
from typing import TypeVar

from scanproof.numbers.verdict.answers import TaskSamples

Kept = TypeVar("Kept")


class MissingEvidenceError(Exception):
    """What a score would be made from was not kept; the message says what."""


def score_documents(task: TaskSamples, metric: str, *, binary: bool = True) -> tuple[float, ...]:
    """Contribution of each document to a metric: a log-likelihood in nats for `perplexity`, else in [0, 1].

    `binary` is False where a document scores the probability of its right answers.

    Raises:
        MissingEvidenceError: lengths, right answers or greedy answers were not kept, or the metric is not known.
    """
    single = all(len(answers) == 1 for answers in task.loglikelihoods)
    if metric == "perplexity" and single:
        return tuple(answers[0] for answers in task.loglikelihoods)
    if metric == "acc" and single:
        return tuple(map(float, require_all(task.greedy, task, "whether an answer is greedy")))
    if metric not in ("acc", "acc_norm") or not all(task.loglikelihoods):
        raise MissingEvidenceError(f"{task.task}: no rule says how {metric} follows from its answers")
    right = require_all(task.right, task, "which answers are right")
    if not binary:
        return tuple(map(find_mass, task.loglikelihoods, right))
    lengths = require_all(task.lengths, task, "the lengths of the answers") if metric == "acc_norm" else repeat(None)
    return tuple(map(is_likeliest_right, task.loglikelihoods, right, lengths))


def require_all(kept: Sequence[Kept | None], task: TaskSamples, what: str) -> list[Kept]:
    """What was kept of each document; raises MissingEvidenceError where it was not kept of every one."""
    known = [value for value in kept if value is not None]
    if len(known) != len(task.doc_ids):
        raise MissingEvidenceError(f"{task.task}: {what} was not kept")
    return known


def is_likeliest_right(answers: Sequence[float], right: Sequence[int], lengths: Sequence[int] | None) -> float:
    """1 if the likeliest answer, per character where lengths are given, is a right one; else 0."""
    weighed = answers if lengths is None else [
        answer / length if length else -math.inf for answer, length in zip(answers, lengths, strict=True)
    ]  # fmt: skip
    return float(max(range(len(weighed)), key=weighed.__getitem__) in right)


def find_mass(answers: Sequence[float], right: Sequence[int]) -> float:
    """Probability of the right answers, of all answers together."""
    largest = max(answers)
    weights = [math.exp(answer - largest) for answer in answers]
    return math.fsum(weights[index] for index in right if index < len(weights)) / math.fsum(weights)


def find_aggregate(scores: Sequence[float], metric: str) -> float:
    """The number that documents make together: their mean, or the perplexity of their log-likelihoods in nats.

    Infinity for a perplexity that is larger than every float64.
    """
    try:
        mean = math.fsum(scores) / len(scores)
        return math.exp(-mean) if metric == "perplexity" else mean
    except OverflowError:
        return math.inf


def find_stderr(groups: Iterable[Sequence[float]]) -> float | None:
    """Standard error of the mean of several tasks' documents together, from the variance within each task.

    None where a task has a single document.  For one task it is the standard deviation over the root of their number.
    """
    tasks = [list(scores) for scores in groups]
    documents = sum(map(len, tasks))
    if any(len(scores) < 2 for scores in tasks):
        return None
    means = [math.fsum(scores) / len(scores) for scores in tasks]
    within = math.fsum((score - mean) ** 2 for scores, mean in zip(tasks, means, strict=True) for score in scores)
    return math.sqrt(within / (documents - len(tasks)) / documents)


def find_bootstrap_stderr(scores: Sequence[float]) -> float | None:
    """Standard error of a perplexity, as the bootstrap with endless draws says it; None for a single document.

    The mean of n drawn documents has the moment E exp(k mean) = (mean over documents of exp(k nll / n))^n.  Where a few
    documents have most of the log-likelihood, the perplexity times the standard error of its logarithm is far too low.
    """
    count = len(scores)
    if count < 2:
        return None

    def log_moment(power: int) -> float:
        exponents = [-power * score / count for score in scores]
        largest = max(exponents)
        return count * (largest + math.log(math.fsum(math.exp(each - largest) for each in exponents) / count))

    first, second = log_moment(1), log_moment(2)
    try:
        return math.exp(first) * math.sqrt(math.expm1(max(0.0, second - 2 * first)))
    except OverflowError:
        return math.inf
