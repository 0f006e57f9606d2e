"""Declares a run good, as the baseline of everything that it evaluated, or says every reason against it."""

from __future__ import annotations

import uuid
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
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
    list_given_up,
    list_jobs,
    list_lost,
    list_tasks_of_jobs,
)
from scanproof.history.errors import HistoryError
from scanproof.history.store import History, Published
from scanproof.numbers.verdict.outcome import LatencyOutcome, number_outcome
from scanproof.record import Run

PATTERN = frozenset("*?[")
"""What makes a name a pattern."""


def why_not_good(run: Run) -> list[str]:
    """Every reason against a run as a baseline."""
    reasons = []
    if any(run_failures.unfinished(run)) or (run.selected is not None and run.selected > len(run.records)):
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
                f"or give --without '{ALL}' to stop comparing what this run lacks"
            )
        return (
            f"it lacks {self.task} of {self.job}, which its baseline, the run {self.baseline}, holds: that would be "
            f"compared no more; run all tasks of the job, or give --without {self.task} if that is meant"
        )


class Before(NamedTuple):
    """A baseline that a job of a new run had before."""

    job: str
    """Its name in the new run."""
    declared: Declared
    named: str
    """Its name in the run of that baseline."""


def find_before(run: Run, published: Mapping[str, Published], gpu: str, declared: Sequence[Declared]) -> list[Before]:
    """What the jobs of a run are compared with: that of the same evaluation, and the last of the name on the same GPU.

    With another batch size it is another evaluation, and its tasks are those that were compared.

    Args:
        published: the runs of the history, by id.
        gpu: of the run.
        declared: all declarations, in order.
    """
    current = find_current(declared)
    found = []
    for key, job in list_jobs(run).items():
        held = {each.id for other, each in current.items() if each.evaluations[other] == job}
        same = [each for each in declared if each.id in held and gpu_of(each, published) in (None, gpu)]
        if key in current:
            found.append(Before(job, current[key], current[key].evaluations[key]))
        if same and same[-1] != current.get(key):
            found.append(Before(job, same[-1], job))
    return found


def gpu_of(declared: Declared, published: Mapping[str, Published]) -> str | None:
    """The GPU of a declared run; None where nothing says it."""
    run = published.get(declared.run)
    return declared.gpu or (None if run is None else run.gpu)


def list_lost_tasks(
    history: History, published: Mapping[str, Published], run: Run, before: Iterable[Before]
) -> list[Lost]:
    """What the baselines of a run's jobs hold and the run lacks, whatever the jobs were called in them."""
    now = list_tasks_of_jobs(run)
    lost = set()
    for job, declared, named in before:
        try:
            held = list_tasks_of_jobs(read_run(history, published[declared.run]))[named]
        except (HistoryError, KeyError):
            held = {ALL}
        lost |= {Lost(job, task, declared.run) for task in held - now[job]}
    return sorted(lost)


def list_left_out(run: Run, before: Iterable[Before]) -> Iterator[LeftOut]:
    """What the baselines before left out by name, and this run still lacks, under the jobs' names in this run."""
    now = list_tasks_of_jobs(run)
    for job, declared, named in before:
        for each in declared.without:
            if each.job == named and each.task not in now[job]:
                yield each._replace(job=job)


def list_unknown(run: Run, before: Iterable[Before], names: Collection[str]) -> Iterator[tuple[str, str]]:
    """Jobs with the tasks that are named, that they lack, and that no baseline before is known to hold.

    Their baselines may have been in a history that is lost: other runs of a store say so.

    Args:
        names: those that are of nothing that is known to be lost; `JOB:TASK` for any job, `TASK` for those without a
            baseline before.
    """
    known = {each.job for each in before}
    for job, tasks in list_tasks_of_jobs(run).items():
        prefix = f"{job}:"
        of_job = {name.removeprefix(prefix) for name in names if name.startswith(prefix)}
        of_all = {name for name in names if ":" not in name} if job not in known else set()
        yield from ((job, task) for task in of_job | of_all if task not in tasks and not PATTERN & set(task))


def is_named(job: str, task: str, without: Collection[str]) -> bool:
    """Whether one of some names or patterns is of a task of a job; only `*` is of what is not known.

    Args:
        without: such as `piqa`, `mmlu_*`, `JOB:piqa`.
    """
    if task == ALL:
        return not {ALL, f"{job}:{ALL}"}.isdisjoint(without)
    return any(fnmatchcase(name, pattern) for pattern in without for name in (task, f"{job}:{task}"))


def explain_lost(lost: Collection[str], declared: Iterable[Declared], give_up: Collection[str]) -> Iterator[str]:
    """Why declarations that cannot be read stand in the way: nobody knows what they hold."""
    for name in sorted(set(lost) - set(give_up)):
        yield (
            f"the declaration {name} is gone or damaged: restore baselines/{name}.json, or give --give-up {name}; then "
            "whatever it held has no baseline until a run of it is declared"
        )
    for name in sorted({each.id for each in declared}.intersection(give_up)):
        yield f"--give-up {name}: it can be read, and holds"


def declare(
    history: History,
    published: Published,
    reason: str,
    *,
    without: Collection[str] = (),
    give_up: Collection[str] = (),
) -> Declared:
    """Declare a run good for everything that it evaluated.

    Args:
        without: names or patterns of tasks that the run may lack although the baselines which it replaces hold them.
        give_up: ids of declarations that cannot be read, and are to be looked for no more.

    Raises:
        HistoryError: the run is not fit for it; with every reason.
    """
    if not reason.strip():
        raise HistoryError("a baseline needs a reason: --reason 'why this run is good'")
    run = read_run(history, published)
    reasons = why_not_good(run)
    if published.samples_pruned or history.read(published, "samples") is None:
        reasons.append("its samples are not in the history")
    declared = list_declarations(history)
    lost_before = list_lost(history, declared) - list_given_up(declared)
    reasons += explain_lost(lost_before, declared, give_up)
    runs = {each.id: each for each in history.runs()}
    before = find_before(run, runs, published.gpu, declared)
    lost, left_out = list_lost_tasks(history, runs, run, before), set(list_left_out(run, before))
    reasons += [each.reason for each in lost if not is_named(each.job, each.task, without)]
    missing = {(each.job, each.task) for each in lost} | {(each.job, each.task) for each in left_out}
    others = [name for name in without if not any(is_named(*each, [name]) for each in missing)]
    unknown = set(list_unknown(run, before, others))
    reasons += [
        f"--without {name}: the run lacks no such task that a baseline holds, and has no such job without a baseline; "
        "of a job without one only names of tasks are taken, no patterns"
        for name in others
        if not any(name in (task, f"{job}:{task}") for job, task in unknown)
    ]
    if reasons:
        raise HistoryError(f"{published.id} is refused as a baseline:\n" + "\n".join(f"  {why}" for why in reasons))
    newest = {each.id for each in find_current(declared).values()} | {each.id for each in declared[-1:]}
    now = datetime.now(UTC)
    name = f"{now:%Y%m%dT%H%M%SZ}-{uuid.uuid4().hex[:8]}"
    # What is left out once more is left out from now on.
    kept = {each._replace(declaration=name) if is_named(each.job, each.task, without) else each for each in left_out}
    new = {(each.job, each.task) for each in lost} | unknown
    content = {
        "format": store.FORMAT,
        "id": name,
        "run": published.id,
        "gpu": published.gpu,
        "reason": reason.strip(),
        "declared": now.isoformat(timespec="seconds"),
        "replaces": sorted(newest.union(give_up)),
        "given_up": sorted(give_up),
        "evaluations": list_jobs(run),
        "without": sorted(kept | {LeftOut(job, published.gpu, task, name) for job, task in new}),
    }
    history.place.add(f"baselines/{content['id']}.json", store.seal(content))
    return Declared(str(content["id"]), content)
