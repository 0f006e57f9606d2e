"""Two runs side by side: numbers, flipped documents, environments."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scanproof.history import queries
from scanproof.history.baseline import read_run
from scanproof.history.errors import HistoryError
from scanproof.history.publish import sample_files
from scanproof.history.samples import from_parquet
from scanproof.history.store import History, Published
from scanproof.numbers.expected.constants import Constants
from scanproof.numbers.values import PublishedValue
from scanproof.numbers.verdict import baseline_gate
from scanproof.numbers.verdict.answers import Samples
from scanproof.numbers.verdict.baseline_gate import Baseline, TaskPair
from scanproof.numbers.verdict.paired_tests import PairedComparison, refuse
from scanproof.record import Evaluation, Record, Run

COLUMNS = ("id", "before", "now", "difference", "gained", "lost", "p_value", "compared", "outcome_now")


@dataclass(frozen=True)
class Whole:
    """A run with its samples."""

    run: Run
    samples: Samples

    def evaluation(self, job: str) -> Evaluation | None:
        return next((each for each in self.run.evaluations if each.job.name == job), None)

    def answers_of(self, job: str) -> Samples:
        """The samples of one job: other jobs hold other models' answers to the same tasks."""
        return {(name, task): samples for (name, task), samples in self.samples.items() if name == job}


def from_history(history: History, published: Published) -> Whole:
    """A published run; raises HistoryError."""
    run = read_run(history, published)
    content = None if published.samples_pruned else history.read(published, "samples")
    samples = from_parquet(content) if content is not None else {}
    return Whole(run, samples)


def from_store(run: Run, folder: Path) -> Whole:
    """A run of a local store; raises HistoryError."""
    return Whole(run, {(task.job, task.task): task for task in sample_files(run, folder)})


def numbers(before: Whole, now: Whole, values: Iterable[PublishedValue], constants: Constants) -> list[dict[str, Any]]:
    """A row per number of either run."""
    by_id = {value.id: value for value in values}
    old = {kept.id: kept for kept in before.run.records}
    new = {kept.id: kept for kept in now.run.records}
    return [
        row(name, old.get(name), new.get(name), finding(by_id.get(name), old.get(name), new.get(name), before, now,
                                                        constants))
        for name in dict.fromkeys([*old, *new])
    ]  # fmt: skip


def finding(
    value: PublishedValue | None, old: Record | None, new: Record | None, before: Whole, now: Whole,
    constants: Constants,
) -> PairedComparison:  # fmt: skip
    """One number, document by document; refused with the reason where that would mean nothing."""
    name = f"the run {before.run.id}"
    kept = new or old
    assert kept is not None
    if old is None or new is None:
        return refuse(kept.id, name, f"it is not in the run {(before if old is None else now).run.id}")
    if value is None:
        return refuse(kept.id, name, "no expected file holds this number any more, so its documents are not known")
    first, second = before.evaluation(old.job), now.evaluation(new.job)
    if first is None or second is None:
        broken = before if first is None else now
        return refuse(kept.id, name, f"its job was not evaluated in the run {broken.run.id}")
    baseline = Baseline(name=name, samples=before.answers_of(old.job), engine=first.engine, evaluation=first)
    return baseline_gate.judge_number(value, second, now.samples, baseline, constants)


def row(name: str, old: Record | None, new: Record | None, comparison: PairedComparison) -> dict[str, Any]:
    """A number in both runs, natural unit."""
    before, now = measured(old), measured(new)
    flips = next((test for test in comparison.tests if test.gained is not None), None)
    p_values = [test.p_value for test in comparison.tests if test.p_value is not None]
    return {
        "id": name,
        "before": before,
        "now": now,
        "difference": None if before is None or now is None else now - before,
        "outcome_before": old.outcome if old else None,
        "outcome_now": new.outcome if new else None,
        "gained": flips.gained if flips else None,
        "lost": flips.lost if flips else None,
        "p_value": min(p_values, default=None),
        "compared": comparison.outcome.value,
        "because": comparison.because,
    }


def measured(kept: Record | None) -> float | None:
    return kept.verdict.measured if kept and kept.verdict else None


def flipped(before: Whole, now: Whole, value: PublishedValue) -> list[dict[str, Any]]:
    """The documents of a number that were right in one run and wrong in the other.

    Raises HistoryError when they cannot be paired.
    """
    baseline = Baseline(name=before.run.id, samples=before.answers_of(value.job.name))
    rows = []
    for task, metric in baseline_gate.list_tasks(value):
        pairs, reasons = baseline_gate.pair_tasks(baseline, now.samples, value.job.name, [task])
        reason = reasons[0] if reasons else baseline_gate.explain_missing_metric(pairs[0], metric)
        if reason is not None:
            raise HistoryError(f"{value.id}: {reason}")
        rows.extend(flips_of(pairs[0], metric))
    return rows


def flips_of(pair: TaskPair, metric: str) -> list[dict[str, Any]]:
    """One task's flipped documents."""
    return [
        {
            "task": pair.now.task,
            "doc_id": doc,
            "score_before": old,
            "score_now": new,
            "loglikelihoods_before": list(pair.before.loglikelihoods[index]),
            "loglikelihoods_now": list(pair.now.loglikelihoods[index]),
        }
        for index, (doc, old, new) in enumerate(
            zip(pair.now.doc_ids, pair.before.metrics[metric], pair.now.metrics[metric], strict=True)
        )
        if old != new
    ]


def environments(before: Run, now: Run) -> list[dict[str, Any]]:
    """What differs between the machines, and between the evaluations of one job."""
    rows = queries.environment_changes(before.environment, now.environment)
    old = {evaluation.job.name: evaluation for evaluation in before.evaluations}
    seen = {(row["what"], row["before"], row["now"]) for row in rows}
    for evaluation in now.evaluations:
        if evaluation.job.name in old:
            for change in queries.environment_changes(identifying(old[evaluation.job.name]), identifying(evaluation)):
                key = change["what"], change["before"], change["now"]
                if key not in seen:
                    seen.add(key)
                    rows.append(change)
    return rows


def identifying(evaluation: Evaluation) -> dict[str, Any]:
    """An evaluation's environment without what differs from run to run."""
    left_out = {"peak_device_memory_bytes", "peak_memory_bytes", "recomputed_because"}
    kept = {name: value for name, value in evaluation.environment.items() if name not in left_out}
    return {**kept, "engine": evaluation.engine}
