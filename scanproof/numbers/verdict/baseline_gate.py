"""The second gate: one number, one model, one night, compared document by document with a baseline.  Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from scanproof.numbers.expected.constants import Constants
from scanproof.numbers.values import PublishedValue
from scanproof.numbers.verdict.answers import Samples, TaskSamples
from scanproof.numbers.verdict.engines import Engine
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
from scanproof.numbers.verdict.rounding import describe_unbounded, find_ceiling

if TYPE_CHECKING:
    from scanproof.record import Evaluation


@dataclass(frozen=True, kw_only=True)
class Baseline:
    """What one evaluation is compared with."""

    name: str
    """How it is spoken of: `the run 2026...`, `the answers recorded in float64`."""
    samples: Samples
    harness: str | None
    """Version of lm-eval that produced it."""
    ceiling: float | None = None
    """Nats by which rounding can move an answer at all, where that is known."""
    unbounded: str = ""
    """dtype and device of a stand-in, `float32 on cuda:0`, where that is not known."""
    engine: Engine | None = None
    """What scored it; None for answers that no run holds."""
    evaluation: Evaluation | None = None
    """The evaluation whose answers these are; None for answers recorded in float64."""

    def beside(self, evaluation: Evaluation) -> Baseline:
        """The baseline with the ceiling of rounding between it and this evaluation of a stand-in; others stay as is."""
        if evaluation.job.suite != "embedded":
            return self
        both = [evaluation] if self.evaluation is None else [evaluation, self.evaluation]
        return replace(self, ceiling=find_ceiling(*both), unbounded=describe_unbounded(*both))

    def against(self, engine: Engine) -> Baseline:
        """The baseline as it is spoken of beside an evaluation by this engine: one by the other may be compared."""
        if self.engine in (None, engine):
            return self
        return replace(self, name=f"{self.name} (scored by {self.engine}, this by {engine})")


@dataclass(frozen=True)
class TaskPair:
    """One task in the baseline and now."""

    before: TaskSamples
    now: TaskSamples

    def metric(self, name: str) -> list[float]:
        """Differences of what the documents contribute to a metric, now minus before."""
        pairs = zip(self.before.metrics[name], self.now.metrics[name], strict=True)
        return [0.0 if old == new else (new or 0.0) - (old or 0.0) for old, new in pairs]

    def answers(self) -> list[float]:
        """Differences of every answer's log-likelihood, in nats."""
        return [
            0.0 if old == new else new - old
            for before, now in zip(self.before.loglikelihoods, self.now.loglikelihoods, strict=True)
            for old, new in zip(before, now, strict=True)
        ]

    def margins(self) -> list[float] | None:
        """Differences of the right answer's lead over the best wrong one, in nats; None where it is not known."""
        old, new = right_answer_margins(self.before), right_answer_margins(self.now)
        return None if old is None or new is None else [b - a for a, b in zip(old, new, strict=True)]


def right_answer_margins(task: TaskSamples) -> list[float] | None:
    """Log-likelihood of the right answer minus that of the best wrong one."""
    found = []
    right = task.metrics.get("acc", (None,) * len(task.doc_ids))
    for target, values, score in zip(task.targets, task.loglikelihoods, right, strict=True):
        index = find_right_answer(target, values, score)
        if index is None:
            return None
        found.append(values[index] - max(value for place, value in enumerate(values) if place != index))
    return found


def find_right_answer(target: int | None, values: Sequence[float], score: float | None) -> int | None:
    """Index of the right answer; where the task does not count its answers, what the score says about two of them."""
    if len(values) < 2 or score not in (0.0, 1.0):
        return None
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
    if [len(values) for values in before.loglikelihoods] != [len(values) for values in now.loglikelihoods]:
        return f"{task}: the answers that were scored differ"
    return None


def explain_other_harness(baseline: Baseline, harness: str | None) -> str | None:
    """Why runs of two releases of lm-eval are not compared."""
    if None in (baseline.harness, harness):
        return "the version of lm-eval is not known on both sides"
    return None if baseline.harness == harness else f"lm-eval {harness} now, {baseline.harness} in the baseline"


def pair_tasks(
    baseline: Baseline, samples: Samples, job: str, tasks: Iterable[str]
) -> tuple[list[TaskPair], list[str]]:
    """The tasks that can be compared, and why the others cannot."""
    pairs, reasons = [], []
    old = {task: found for (_, task), found in baseline.samples.items()}
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
    """The tasks whose documents a number is made of, each with the metric."""
    return [(part.task, part.metric) for part in value.parts] or [(value.task, value.metric)]


def judge_number(
    value: PublishedValue, samples: Samples, baseline: Baseline, constants: Constants, *, harness: str | None
) -> PairedComparison:
    """Compare one number with the baseline."""
    pairs, reasons = pair_tasks(baseline, samples, value.job.name, [task for task, _ in list_tasks(value)])
    refused = explain_other_harness(baseline, harness) or (reasons[0] if reasons else None)
    if refused is None:
        refused = next((why for each, (_, metric) in zip(pairs, list_tasks(value), strict=True)
                        if (why := explain_missing_metric(each, metric))), None)  # fmt: skip
    if refused is not None:
        return refuse(value.id, baseline.name, refused)
    asked = list(list_questions(value, pairs, constants))
    tests = [build(constants.second_level / len(asked)) for build in asked]
    moved = [d for each in pairs for d in each.answers()]
    if baseline.ceiling is not None or baseline.unbounded:
        tests.append(noise_test(moved, baseline.ceiling, baseline.unbounded))
    strange = finite_test(moved)
    return conclude(value.id, baseline.name, [*tests, *([strange] if strange.changed else [])])


def explain_missing_metric(each: TaskPair, metric: str) -> str | None:
    """Why a metric cannot be compared per document."""
    missing = metric not in each.before.metrics or metric not in each.now.metrics
    return f"{each.now.task}: {metric} was not kept per document on both sides" if missing else None


def list_questions(value: PublishedValue, pairs: Sequence[TaskPair], constants: Constants) -> Iterator[Question]:
    """The tests that a number is put to; each is built with its share of the level."""
    metrics = [metric for _, metric in list_tasks(value)]
    moved = [each.metric(metric) for each, metric in zip(pairs, metrics, strict=True)]
    margin = constants.perplexity_sd
    if value.metric == "perplexity":
        yield Shift("loglikelihoods", [[d for group in moved for d in group]], margin)
        return
    if not value.binary:
        # A shift of all answers by at most `margin` moves a share of their mass by at most half of it.
        yield Shift("scores", [[d for group in moved for d in group]], margin / 2, unit="of the mass")
        return
    if value.parts and not value.pooled:
        weighed = [d / len(group) for group in moved for d in group]
        yield Shift("scores", [weighed], 0.0, unit="of the mean")
        return
    yield Flips([d for group in moved for d in group])
    leads = [found for each in pairs if (found := each.margins()) is not None]
    if len(leads) == len(pairs) and set(metrics) == {"acc"}:
        yield Shift("margins", [[d for group in leads for d in group]], margin)


@dataclass(frozen=True)
class Flips:
    """A question about right and wrong."""

    moved: Sequence[float]

    def __call__(self, level: float) -> PairedTest:
        gained = sum(d > 0.5 for d in self.moved)
        return flips_test(gained, sum(d < -0.5 for d in self.moved), len(self.moved), level)


@dataclass(frozen=True)
class Shift:
    """A question about log-likelihoods or masses."""

    name: str
    groups: Sequence[Sequence[float]]
    margin: float
    unit: str = "nats"

    def __call__(self, level: float) -> PairedTest:
        return shift_test(self.name, self.groups, level, margin=self.margin, unit=self.unit)


Question = Flips | Shift


def judge_together(subject: str, name: str, pairs: Sequence[TaskPair], level: float, margin: float) -> PairedComparison:
    """Everything a model, or a night, measured: a small change in one direction, spread over all tasks.

    Each document counts once: right or wrong, and the lead of the right answer, or its log-likelihood where there is
    nothing to choose from.
    """
    flips = [d for each in pairs if is_binary(each) for d in each.metric("acc")]
    leads = [found for each in pairs if (found := document_moves(each)) is not None]
    asked: list[Question] = [Flips(flips)] if flips else []
    if leads:
        asked.append(Shift("margins", leads, margin))
    if not asked:
        return refuse(subject, name, "nothing in it can be paired")
    return conclude(subject, name, [build(level / len(asked)) for build in asked])


def is_binary(each: TaskPair) -> bool:
    """Whether the documents of a task are right or wrong."""
    both = [*each.before.metrics.get("acc", (None,)), *each.now.metrics.get("acc", (None,))]
    return all(score in (0.0, 1.0) for score in both)


def document_moves(each: TaskPair) -> list[float] | None:
    """By how much each document moved, in nats."""
    if all(len(values) == 1 for values in each.now.loglikelihoods):
        return each.answers()
    return each.margins()


def group_by_model(pairs: Iterable[tuple[str, TaskPair]]) -> Mapping[str, list[TaskPair]]:
    """Pairs of each model."""
    found: dict[str, list[TaskPair]] = {}
    for model, each in pairs:
        found.setdefault(model, []).append(each)
    return found
