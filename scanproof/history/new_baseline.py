"""Declares a run good, as the baseline of everything that it evaluated, or says every reason against it."""

from __future__ import annotations

import uuid
from collections.abc import Collection, Iterator, Mapping
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from typing import NamedTuple

from scanproof.history import run_failures, store
from scanproof.history.baseline import read_run
from scanproof.history.declarations import (
    ALL,
    Declared,
    LeftOut,
    find_current,
    list_declarations,
    list_jobs,
    list_tasks_of_jobs,
)
from scanproof.history.errors import HistoryError
from scanproof.history.store import History, Published
from scanproof.numbers.verdict.outcome import LatencyOutcome, number_outcome
from scanproof.record import Run


def why_not_good(run: Run) -> list[str]:
    """Every reason against a run as a baseline."""
    reasons = []
    if run.finished is None or (run.selected is not None and run.selected > len(run.records)):
        reasons.append(f"it is partial: {len(run.records)} of {run.selected} numbers, or the session was stopped")
    if run.limit is not None:
        reasons.append(f"it is limited to the first {run.limit} documents of each task")
    if not run.strict:
        reasons.append("it was not strict: run it with --scanproof-strict")
    bad = [kept for kept in run.records if not number_outcome(kept.outcome).fits_a_baseline]
    if bad:
        named = ", ".join(f"{kept.id} ({kept.outcome})" for kept in bad[:3])
        reasons.append(f"it failed: {len(bad)} of {len(run.records)} numbers, first {named}")
    reasons += [f"it is not whole: {why}" for why in run_failures.incomplete_parts(run)]
    wrong = [case.id for case in run.latencies if case.outcome == LatencyOutcome.WRONG]
    if wrong:
        reasons.append(f"{len(wrong)} kernels had wrong results: {run_failures.name_some(wrong)}")
    reasons += [f"it failed: {why}" for why in run_failures.failed_tests(run)]
    if not run.evaluations:
        reasons.append("it evaluated nothing")
    return [*reasons, *list_possible_fallbacks(run)]


def list_possible_fallbacks(run: Run) -> list[str]:
    """Jobs that need kernels without proof that these ran: numbers of a fallback say nothing about the kernels."""
    return [
        f"{evaluation.job.name} may have run a fallback: its numbers need {', '.join(evaluation.job.kernels)}, "
        "and the run holds no proof that they were launched"
        for evaluation in run.evaluations
        if evaluation.job.kernels and not getattr(evaluation, "kernels", None)
    ]


class Lost(NamedTuple):
    """A task that a baseline holds and a new one lacks: its numbers would be compared no more."""

    job: str
    """Its name in the new run."""
    task: str
    """`*`: the baseline cannot be read, so that nobody knows what it held."""
    baseline: str
    """Id of the run that holds it."""

    @property
    def reason(self) -> str:
        """Why the run is refused."""
        if self.task == ALL:
            return (
                f"what its baseline, the run {self.baseline}, holds of {self.job} cannot be read: restore the history, "
                f"or give --without '{ALL}' to compare what this run lacks no more"
            )
        return (
            f"it lacks {self.task} of {self.job}, which its baseline, the run {self.baseline}, holds: that would be "
            f"compared no more; run all tasks of the job, or give --without {self.task} if that is meant"
        )


def list_lost(history: History, run: Run, current: Mapping[str, Declared]) -> list[Lost]:
    """What the baselines of a run's jobs hold and the run lacks, whatever the jobs were called in them."""
    published = {each.id: each for each in history.runs()}
    now = list_tasks_of_jobs(run)
    lost = set()
    for key, job in list_jobs(run).items():
        declared = current.get(key)
        if declared is None:
            continue
        try:
            before = list_tasks_of_jobs(read_run(history, published[declared.run]))[declared.evaluations[key]]
        except (HistoryError, KeyError):
            before = {ALL}
        lost |= {Lost(job, task, declared.run) for task in before - now[job]}
    return sorted(lost)


def list_left_out(run: Run, current: Mapping[str, Declared]) -> Iterator[LeftOut]:
    """What the baselines before left out by name, and this run still lacks, under the jobs' names in this run."""
    now = list_tasks_of_jobs(run)
    for key, job in list_jobs(run).items():
        declared = current.get(key)
        for each in declared.without if declared is not None else ():
            if declared is not None and each.job == declared.evaluations[key] and each.task not in now[job]:
                yield each._replace(job=job)


def is_named(task: str, without: Collection[str]) -> bool:
    """Whether one of some names or patterns, such as `mmlu_*`, is of a task; only `*` is of what is not known."""
    return any(fnmatchcase(task, pattern) for pattern in without)


def declare(history: History, published: Published, reason: str, *, without: Collection[str] = ()) -> Declared:
    """Declare a run good for everything that it evaluated.

    Args:
        without: names or patterns of tasks that the run may lack although the baselines which it replaces hold them.

    Raises:
        HistoryError: the run is not fit for it; with every reason.
    """
    if not reason.strip():
        raise HistoryError("a baseline needs a reason: --reason 'why this run is good'")
    run = read_run(history, published)
    reasons = why_not_good(run)
    if published.samples_pruned or history.read(published, "samples") is None:
        reasons.append("its samples are not in the history")
    before = list_declarations(history)
    current = find_current(before)
    lost, left_out = list_lost(history, run, current), set(list_left_out(run, current))
    reasons += [each.reason for each in lost if not is_named(each.task, without)]
    missing = {each.task for each in lost} | {each.task for each in left_out}
    reasons += [
        f"--without {pattern}: it lacks no such task that a baseline holds"
        for pattern in without
        if not any(fnmatchcase(task, pattern) for task in missing)
    ]
    if reasons:
        raise HistoryError(f"{published.id} is refused as a baseline:\n" + "\n".join(f"  {why}" for why in reasons))
    newest = sorted({each.id for each in current.values()} | {each.id for each in before[-1:]})
    now = datetime.now(UTC)
    name = f"{now:%Y%m%dT%H%M%SZ}-{uuid.uuid4().hex[:8]}"
    # What is left out once more is left out from now on.
    kept = {each._replace(declaration=name) if is_named(each.task, without) else each for each in left_out}
    content = {
        "format": store.FORMAT,
        "id": name,
        "run": published.id,
        "reason": reason.strip(),
        "declared": now.isoformat(timespec="seconds"),
        "replaces": newest,
        "evaluations": list_jobs(run),
        "without": sorted(kept | {LeftOut(each.job, published.gpu, each.task, name) for each in lost}),
    }
    history.place.add(f"baselines/{content['id']}.json", store.seal(content))
    return Declared(str(content["id"]), content)
