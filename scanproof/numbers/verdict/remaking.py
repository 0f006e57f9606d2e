"""Is a number made of its answers?  Its documents' scores and its aggregates are made again and compared.  Pure.

What was measured has to be made of the answers that were measured, and what is expected of a stand-in of those that
were recorded with it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

from scanproof.numbers.values import PublishedValue
from scanproof.numbers.verdict.answers import TaskSamples
from scanproof.numbers.verdict.derive import find_measurement
from scanproof.numbers.verdict.engines import format_score
from scanproof.numbers.verdict.measurement import Measurement
from scanproof.numbers.verdict.scores import (
    MissingEvidenceError,
    find_aggregate,
    find_bootstrap_stderr,
    find_stderr,
    score_documents,
)

ROUNDING = 1e-11
"""Relative difference of two sums of one task's documents in float64 that is rounding alone."""
PRINTED = 0.5e-4
"""Half a unit of the last digit of a stand-in's expected number; `scanproof.embedded.record` writes four decimals."""
BOOTSTRAP = 1.3
"""Factor by which a perplexity's standard error from the bootstrap's 1,000 draws may differ from that of all draws."""


say = partial(format_score, digits=10)
"""As many digits as a comparison of two numbers needs."""


@dataclass(frozen=True, kw_only=True)
class ScoreTerm:
    """What a number is made of: one metric of one task."""

    task: str
    metric: str
    binary: bool


def list_terms(value: PublishedValue) -> list[ScoreTerm]:
    """Everything that a number is made of."""
    if value.parts:
        return [ScoreTerm(task=part.task, metric=part.metric, binary=part.binary) for part in value.parts]
    return [ScoreTerm(task=value.task, metric=value.metric, binary=value.binary)]


def find_tasks(value: PublishedValue, samples: Mapping[str, TaskSamples]) -> list[TaskSamples]:
    """The answers that a number is made of, each task once; those that were not kept are left out."""
    names = dict.fromkeys(term.task for term in list_terms(value))
    return [samples[name] for name in names if name in samples and samples[name].doc_ids]


def explain_missing_tasks(value: PublishedValue, kept: Sequence[TaskSamples]) -> str | None:
    """Of which tasks of a number no answers were kept; None where there are some of each."""
    known = {task.task for task in kept}
    missing = [name for name in dict.fromkeys(term.task for term in list_terms(value)) if name not in known]
    if not missing:
        return None
    more = f" and {len(missing) - 1} more tasks" if len(missing) > 1 else ""
    return f"the answers to {missing[0]}{more} were not kept"


def explain_other_scores(
    value: PublishedValue, measurements: Sequence[Measurement], samples: Mapping[str, TaskSamples]
) -> str | None:
    """How a number differs from what its answers make; None where it is made of them.

    What was not kept of one task does not hide that another one differs.

    Args:
        value: the number.
        measurements: what its evaluation measured.
        samples: the answers of that evaluation, by task.

    Returns:
        The document or aggregate, the metric and both values, in words.

    Raises:
        MissingEvidenceError: nothing is known to differ, but something that the number would be made from was not kept.
    """
    kept = {task.task: task for task in find_tasks(value, samples)}
    missing = list(filter(None, [explain_missing_tasks(value, list(kept.values()))]))
    made: list[tuple[float, ...]] = []
    for term in [term for term in list_terms(value) if term.task in kept]:
        task = kept[term.task]
        try:
            scores = score_documents(task, term.metric, binary=term.binary)
        except MissingEvidenceError as error:
            scores = None
            missing.append(str(error))
        problem = explain_other_term(task, term, scores, find_measurement(measurements, term.task, term.metric))
        if problem:
            return problem
        if term.metric not in task.metrics:
            missing.append(f"{term.task}: the {term.metric} of each document was not kept")
        made.append(scores or ())
    if missing:
        raise MissingEvidenceError(missing[0])
    group = find_measurement(measurements, value.task, value.metric) if value.pooled else None
    return explain_other_aggregate(group, made, f"documents of {len(made)} tasks") if group else None


def explain_other_expectation(value: PublishedValue, recorded: Mapping[str, TaskSamples]) -> str | None:
    """How the expected number of a stand-in differs from what the answers recorded with it make; None where it is it.

    Args:
        value: the number.
        recorded: the recorded answers, by task.

    Returns:
        The file and line, the key, and both values, in words.

    Raises:
        MissingEvidenceError: something that the number would be made from was not recorded.
    """
    made = make_number(value, recorded)
    half_unit = min(value.half_unit, PRINTED) if value.origin == "embedded" else value.half_unit
    if abs(made - value.expected) <= half_unit * (1 + 1e-9):
        return None
    return (
        f"{value.file}:{value.file_line}: printed: {value.printed} is expected of {value.task} {value.metric}, but the "
        f"answers recorded with it make {say(made * value.scale)}"
    )


def make_number(value: PublishedValue, samples: Mapping[str, TaskSamples]) -> float:
    """A number in its natural unit, made of answers alone; raises MissingEvidenceError."""
    if missing := explain_missing_tasks(value, find_tasks(value, samples)):
        raise MissingEvidenceError(missing)
    terms = list_terms(value)
    groups = [score_documents(samples[term.task], term.metric, binary=term.binary) for term in terms]
    if value.parts and not value.pooled:
        parts = zip(groups, terms, strict=True)
        return math.fsum(find_aggregate(scores, term.metric) for scores, term in parts) / len(groups)
    return find_aggregate([score for scores in groups for score in scores], value.metric)


def explain_other_term(
    task: TaskSamples, term: ScoreTerm, scores: Sequence[float] | None, measured: Measurement | None
) -> str | None:
    """How one task's documents or aggregate differ from what its answers make; None where they do not.

    `scores` is None where they could not be made again: then the documents are counted.
    """
    if task.doc_ids != tuple(range(len(task.doc_ids))):
        return explain_other_ids(task)
    if scores is None:
        return explain_other_count(measured, len(task.doc_ids)) if measured else None
    other = explain_other_documents(task, term, scores) if term.metric in task.metrics else None
    return other or (explain_other_aggregate(measured, [scores], "documents") if measured else None)


def explain_other_documents(task: TaskSamples, term: ScoreTerm, scores: Sequence[float]) -> str | None:
    """Which documents are scored otherwise than their answers say; None where there is none."""
    kept = task.metrics[term.metric]
    other = [place for place, (old, new) in enumerate(zip(kept, scores, strict=True)) if not agree(old, new)]
    if not other:
        return None
    first = other[0]
    return (
        f"{term.task} document {task.doc_ids[first]}: {term.metric} is {say(kept[first])} in the evaluation, "
        f"{say(scores[first])} made again from its answers ({len(other)} of {len(scores)} documents differ)"
    )


def explain_other_ids(task: TaskSamples) -> str:
    """What is wrong with the numbers of a task's documents, which have to be 0, 1, 2 and so on."""
    twice = [doc for doc, after in pairwise(task.doc_ids) if doc == after]
    gone = sorted(set(range(task.doc_ids[-1])) - set(task.doc_ids))
    told = [
        *(f"document {doc} is there twice" for doc in twice[:1]),
        *(f"document {doc} is missing" for doc in gone[:1]),
    ]
    wrong = " and ".join(told) or f"the first document is {task.doc_ids[0]}"
    return f"{task.task}: {wrong} among the answers to {len(task.doc_ids)} documents"


def explain_other_aggregate(measured: Measurement, groups: Sequence[Sequence[float]], of: str) -> str | None:
    """How an aggregate differs from what these documents make; None where it does not."""
    scores = [score for group in groups for score in group]
    if other := explain_other_count(measured, len(scores)):
        return other
    name = f"{measured.task} {measured.metric}"
    made = find_aggregate(scores, measured.metric)
    if not agree(measured.value, made):
        return f"{name}: {say(measured.value)} in the evaluation, its {len(scores)} {of} make {say(made)}"
    if measured.stderr is None:
        return None
    if measured.metric == "perplexity":
        stderr = find_bootstrap_stderr(scores)
        right = stderr is None or stderr / BOOTSTRAP <= measured.stderr <= stderr * BOOTSTRAP
    else:
        stderr = find_stderr(groups)
        right = stderr is None or agree(measured.stderr, stderr)
    if right or stderr is None:
        return None
    return f"{name}, standard error: {say(measured.stderr)} in the evaluation, its {of} make {say(stderr)}"


def explain_other_count(measured: Measurement, documents: int) -> str | None:
    """How many documents an aggregate counts, where that is not how many answers are kept; else None."""
    if measured.n_samples == documents:
        return None
    name = f"{measured.task} {measured.metric}"
    return f"{name}: the evaluation counts {measured.n_samples} documents, the answers to {documents} are kept"


def agree(measured: float | None, made: float) -> bool:
    """Whether two numbers differ by rounding at most."""
    return measured is not None and math.isclose(measured, made, rel_tol=ROUNDING, abs_tol=1e-12)
