"""The second gate: compare a number, a model or a whole night with a baseline, document by document.  Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from scanproof.numbers.expected.constants import Constants
from scanproof.numbers.values import PublishedValue, Suite
from scanproof.numbers.verdict.answers import Samples, TaskSamples
from scanproof.numbers.verdict.engines import EngineName
from scanproof.numbers.verdict.paired_tests import (
    PairedComparison,
    PairedTest,
    conclude,
    finite_test,
    flips_test,
    noise_test,
    refuse,
    shift_test,
)
from scanproof.numbers.verdict.remaking import list_terms
from scanproof.numbers.verdict.rounding import describe_unbounded, find_ceiling
from scanproof.numbers.verdict.unexplained import unexplained_test

if TYPE_CHECKING:
    from scanproof.record import Evaluation


@dataclass(frozen=True, kw_only=True)
class Baseline:
    """What one evaluation is compared with."""

    name: str
    """Its name in messages: `the run 2026...`, `the answers recorded in float64`."""
    samples: Samples
    ceiling: float | None = None
    """The most that rounding can move an answer, in nats; None where it is not known."""
    unbounded: str = ""
    """dtype and device of a stand-in whose ceiling is not known: `float32 on cuda:0`."""
    engine: EngineName | None = None
    """The engine that scored it; None for answers that come from no run."""
    evaluation: Evaluation | None = None
    """The evaluation whose answers these are; None for answers recorded in float64."""
    probe_tokens: tuple[int, ...] | None = None
    """What a fixed text became for the model; None where that was not kept."""
    remedy: str = ""
    """What to do, in one line, where another content is meant and this baseline no longer fits."""

    def fitted_to(self, evaluation: Evaluation) -> Baseline:
        """The baseline as this evaluation is compared with it: ceiling of rounding, and both engines in its name."""
        return self.named_for(evaluation.engine).with_rounding_for(evaluation)

    def with_rounding_for(self, evaluation: Evaluation) -> Baseline:
        """The baseline with its ceiling of rounding set for an evaluation of a stand-in; unchanged for other models."""
        suite = evaluation.job.suite
        if suite != "embedded":
            return self
        both = [evaluation] if self.evaluation is None else [evaluation, of_suite(self.evaluation, suite)]
        return replace(self, ceiling=find_ceiling(*both), unbounded=describe_unbounded(*both))

    def named_for(self, engine: EngineName) -> Baseline:
        """The baseline, with both engines in its name where the evaluation was scored by the other engine."""
        if self.engine in (None, engine):
            return self
        return replace(self, name=f"{self.name} (scored by {self.engine}, this by {engine})")


def of_suite(evaluation: Evaluation, suite: Suite) -> Evaluation:
    """The evaluation with the suite of the number that asked for it: what it says of itself decides nothing."""
    return replace(evaluation, job=replace(evaluation.job, suite=suite))


@dataclass(frozen=True)
class TaskPair:
    """The answers of one task: in the baseline and now."""

    before: TaskSamples
    now: TaskSamples

    def metric_changes(self, name: str) -> list[float]:
        """For each document: its contribution to a metric, now minus before."""
        pairs = zip(self.before.metrics[name], self.now.metrics[name], strict=True)
        return [0.0 if old == new else (new or 0.0) - (old or 0.0) for old, new in pairs]

    def answer_changes(self) -> list[float]:
        """For each answer of each document: its log-likelihood, now minus before, in nats; 0 where both are NaN."""
        return [
            0.0 if old == new or (math.isnan(old) and math.isnan(new)) else new - old
            for before, now in zip(self.before.loglikelihoods, self.now.loglikelihoods, strict=True)
            for old, new in zip(before, now, strict=True)
        ]

    def margin_changes(self) -> list[float] | None:
        """For each document: the margin of the right answer, now minus before, in nats; None where one is not known."""
        # The questions are the same, so that the right answers are; a baseline's file may not hold them.
        old, new = right_answer_margins(self.before, self.now.right), right_answer_margins(self.now)
        return None if old is None or new is None else [b - a for a, b in zip(old, new, strict=True)]


def right_answer_margins(
    task: TaskSamples, right: Sequence[tuple[int, ...] | None] | None = None
) -> list[float] | None:
    """For each document: log-likelihood of the right answer minus that of the best wrong one, in nats.

    None where the right answer of any document is not known.

    Args:
        task: the answers.
        right: indices of the right answers of each document; those of the task where it is not given.
    """
    margins = []
    unknown = (None,) * len(task.doc_ids)
    known, scores = right or task.right or unknown, task.metrics.get("acc", unknown)
    for indices, target, values, score in zip(known, task.targets, task.loglikelihoods, scores, strict=True):
        index = find_right_answer(indices, target, values, score)
        if index is None:
            return None
        margins.append(values[index] - max(value for place, value in enumerate(values) if place != index))
    return margins


def find_right_answer(
    right: Sequence[int] | None, target: int | None, values: Sequence[float], score: float | None
) -> int | None:
    """Index of the right answer; None where it is not known, or is not one.

    Files until November 2026 do not keep what is right (`right`).  There lm-eval's `target` says it, and where that is
    no index and there are two answers, the score: 1 if the likelier one is right.
    """
    if len(values) < 2 or score not in (0.0, 1.0):
        return None
    if right is not None:
        return right[0] if len(right) == 1 and 0 <= right[0] < len(values) else None
    if target is not None:
        return target if 0 <= target < len(values) else None
    if len(values) > 2:
        return None
    best = max(range(2), key=lambda index: values[index])
    return best if score == 1.0 else 1 - best


def explain_unpaired(before: TaskSamples | None, now: TaskSamples | None, task: str) -> str | None:
    """Why a task's documents cannot be paired; None when they can."""
    if now is None:
        return f"this run kept no samples of {task}"
    if before is None:
        return f"it holds no samples of {task}"
    if len(before.doc_ids) != len(now.doc_ids):
        return f"{task}: {len(now.doc_ids)} documents were scored, {len(before.doc_ids)} in the baseline"
    if before.documents_hash != now.documents_hash or before.doc_ids != now.doc_ids:
        return f"{task}: the documents differ"
    if before.prompts_hash != now.prompts_hash:
        return f"{task}: the prompts differ"
    if before.questions_hash is None and now.questions_hash is not None:
        return f"{task}: the baseline does not say which answers were to choose from"
    if before.questions_hash != now.questions_hash:
        return f"{task}: the answers to choose from differ"
    if [len(values) for values in before.loglikelihoods] != [len(values) for values in now.loglikelihoods]:
        return f"{task}: the answers that were scored differ"
    return None


def pair_tasks(
    baseline: Baseline, samples: Samples, job: str, tasks: Iterable[str]
) -> tuple[list[TaskPair], list[str]]:
    """Pair the tasks that can be compared; also return, for each of the others, why it cannot."""
    pairs, reasons = [], []
    old = {task: task_samples for (_, task), task_samples in baseline.samples.items()}
    for task in tasks:
        now = samples.get((job, task))
        before = old.get(task)
        reason = explain_unpaired(before, now, task)
        if reason is None and before is not None and now is not None:
            pairs.append(TaskPair(before, now))
        else:
            reasons.append(reason or "")
    return pairs, reasons


def list_tasks(value: PublishedValue) -> list[tuple[str, str]]:
    """(task, metric) of everything that a number is computed from."""
    return [(term.task, term.metric) for term in list_terms(value)]


def judge_number(
    value: PublishedValue, evaluation: Evaluation, samples: Samples, baseline: Baseline, constants: Constants
) -> PairedComparison:
    """Compare one number with the baseline: the one function that says whether its documents are as they were.

    Sessions, `scanproof compare` and the page all call it.  What can be compared is decided by the content of
    documents, prompts and answers; another release of lm-eval that asks the same is compared.

    Args:
        value: the number.
        evaluation: the evaluation that answered.
        samples: its answers.
        baseline: what they are compared with.
        constants: levels and margins of the tests.
    """
    baseline = baseline.fitted_to(of_suite(evaluation, value.job.suite))
    pairs, reasons = pair_tasks(baseline, samples, evaluation.job.name, [task for task, _ in list_tasks(value)])
    refused = reasons[0] if reasons else None
    if refused is None:
        missing = (explain_missing_metric(p, metric) for p, (_, metric) in zip(pairs, list_tasks(value), strict=True))
        refused = next(filter(None, missing), None)
    if refused is not None:
        return refuse(value.id, baseline.name, refused, baseline.remedy)
    questions = list(list_questions(value, pairs, constants))
    tests = [run_test(constants.second_level / len(questions)) for run_test in questions]
    moved = [d for pair in pairs for d in pair.answer_changes()]
    if baseline.ceiling is not None or baseline.unbounded:
        tests.append(noise_test(moved, baseline.ceiling, baseline.unbounded))
    terms = zip(pairs, list_terms(value), strict=True)
    unexplained = unexplained_test(((pair.before, pair.now, term) for pair, term in terms), baseline.ceiling)
    rare = [test for test in (finite_test(moved), unexplained) if test is not None and test.changed]
    return conclude(value.id, baseline.name, [*tests, *rare])


def explain_missing_metric(pair: TaskPair, metric: str) -> str | None:
    """Why a metric cannot be compared per document; None when it can."""
    missing = metric not in pair.before.metrics or metric not in pair.now.metrics
    return f"{pair.now.task}: {metric} was not kept per document on both sides" if missing else None


def list_questions(value: PublishedValue, pairs: Sequence[TaskPair], constants: Constants) -> Iterator[Question]:
    """The tests for a number.  Each runs when it is called with its share of the level."""
    metrics = [metric for _, metric in list_tasks(value)]
    moved = [pair.metric_changes(metric) for pair, metric in zip(pairs, metrics, strict=True)]
    margin = constants.perplexity_sd
    if value.metric == "perplexity":
        yield Shift("loglikelihoods", [[d for group in moved for d in group]], margin)
        return
    if not value.binary:
        # If every log-likelihood moves by at most `margin`, a share of the mass moves by at most half of that.
        yield Shift("scores", [[d for group in moved for d in group]], margin / 2, unit="of the mass")
        return
    if value.parts and not value.pooled:
        weighted = [d / len(group) for group in moved for d in group]
        yield Shift("scores", [weighted], 0.0, unit="of the mean")
        return
    yield Flips([d for group in moved for d in group])
    margin_moves = [moves for pair in pairs if (moves := pair.margin_changes()) is not None]
    if len(margin_moves) == len(pairs) and set(metrics) == {"acc"}:
        yield Shift("margins", [[d for group in margin_moves for d in group]], margin)


@dataclass(frozen=True)
class Flips:
    """Did documents change from wrong to right, or back, more often in one direction?"""

    moved: Sequence[float]

    def __call__(self, level: float) -> PairedTest:
        gained = sum(d > 0.5 for d in self.moved)
        return flips_test(gained, sum(d < -0.5 for d in self.moved), len(self.moved), level)


@dataclass(frozen=True)
class Shift:
    """Did log-likelihoods or probability masses move in one direction?"""

    name: str
    groups: Sequence[Sequence[float]]
    margin: float
    unit: str = "nats"

    def __call__(self, level: float) -> PairedTest:
        return shift_test(self.name, self.groups, level, margin=self.margin, unit=self.unit)


Question = Flips | Shift


def judge_together(subject: str, name: str, pairs: Sequence[TaskPair], level: float, margin: float) -> PairedComparison:
    """Compare everything that a model, or a night, measured: it finds a small change that is spread over all tasks.

    Each document counts once in each test: as right or wrong; and by the margin of its right answer, or by its
    log-likelihood where there are no answers to choose from.

    Args:
        subject: name of the model, or `night`.
        name: name of the baseline in messages.
        level: rate of false alarms of all tests together.
        margin: mean shift that is allowed, in nats.
    """
    flips = [d for pair in pairs if is_binary(pair) for d in pair.metric_changes("acc")]
    shifts = [moves for pair in pairs if (moves := document_moves(pair)) is not None]
    questions: list[Question] = [Flips(flips)] if flips else []
    if shifts:
        questions.append(Shift("margins", shifts, margin))
    if not questions:
        return refuse(subject, name, "nothing in it can be paired")
    return conclude(subject, name, [run_test(level / len(questions)) for run_test in questions])


def is_binary(pair: TaskPair) -> bool:
    """Whether every document of the task is either right or wrong."""
    both = [*pair.before.metrics.get("acc", (None,)), *pair.now.metrics.get("acc", (None,))]
    return all(score in (0.0, 1.0) for score in both)


def document_moves(pair: TaskPair) -> list[float] | None:
    """For each document: how far its answer moved, in nats; None where margins are not known."""
    if all(len(values) == 1 for values in pair.now.loglikelihoods):
        return pair.answer_changes()
    return pair.margin_changes()


def group_by_model(pairs: Iterable[tuple[str, TaskPair]]) -> Mapping[str, list[TaskPair]]:
    """Model -> its pairs."""
    by_model: dict[str, list[TaskPair]] = {}
    for model, pair in pairs:
        by_model.setdefault(model, []).append(pair)
    return by_model
