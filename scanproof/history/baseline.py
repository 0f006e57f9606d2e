"""Baselines: runs that a person declared good.  Each declaration is a new file and is never changed.

A declaration names the ones that it replaces.  So the newest is known without trusting any machine's clock.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from typing import Any, NamedTuple

from scanproof import record
from scanproof.files import to_sorted_json
from scanproof.history import run_failures, store
from scanproof.history.errors import HistoryError
from scanproof.history.samples import from_parquet
from scanproof.history.storage import sha256
from scanproof.history.store import History, Published
from scanproof.numbers.values import EvalJob, PublishedValue
from scanproof.numbers.verdict import baseline_gate
from scanproof.numbers.verdict.baseline_gate import Baseline
from scanproof.numbers.verdict.outcome import LatencyOutcome, number_outcome
from scanproof.record import Evaluation, Run

DECLARE = "if the change is meant, declare a new baseline: scanproof baseline set RUN --reason WHY"
RESTORE_RUN = "restore the history, or declare another run: scanproof baseline set RUN --reason WHY"
IDENTITY = (
    "model", "pretrained", "revision", "model_args", "dtype", "device", "num_fewshot", "batch_size", "max_length",
    "limit", "seed",
)  # fmt: skip
"""Fields of a job that two evaluations must share to be compared; tasks are compared one by one."""


class LeftOut(NamedTuple):
    """A task that somebody declared to be compared no more."""

    job: str
    gpu: str
    """That the run was on whose declaration left it out."""
    task: str
    declaration: str
    """Id of the first declaration without it; it begins with its time, as ids of runs do."""


@dataclass(frozen=True)
class Declared:
    """One declaration."""

    id: str
    content: dict[str, Any]

    @property
    def run(self) -> str:
        return str(self.content["run"])

    @property
    def replaces(self) -> frozenset[str]:
        return frozenset(self.content["replaces"])

    @property
    def evaluations(self) -> dict[str, str]:
        """Key of what was evaluated and on what, to the job's name in the run."""
        return dict(self.content["evaluations"])

    @property
    def without(self) -> frozenset[LeftOut]:
        """What earlier baselines held and its run lacks, as was meant."""
        return frozenset(LeftOut(*map(str, each)) for each in self.content.get("without", ()))


def identity(job: EvalJob, environment: Mapping[str, Any]) -> str:
    """Key of what was evaluated and on which GPU: two evaluations with one key can be compared."""
    fields = {name: getattr(job, name) for name in IDENTITY}
    content = {**fields, "gpu": store.gpu_name(environment.get("gpus"))}
    return sha256(to_sorted_json(content))


def list_declarations(history: History) -> list[Declared]:
    """Every intact declaration, each after the ones that it replaces."""
    names = sorted(history.place.sizes("baselines"))
    declared: dict[str, Declared] = {}
    contents = history.place.read([f"baselines/{name}" for name in names])
    for name, content in zip(names, contents, strict=True):
        if name.endswith(".json"):
            kept = history.sealed(f"baselines/{name}", content)
            if kept is not None:
                declared[kept["id"]] = Declared(kept["id"], kept)
    return order_declarations(declared)


def order_declarations(declarations: Mapping[str, Declared]) -> list[Declared]:
    """Sort declarations into the order in which they were made; those made at the same time by their ids."""
    ordered: list[Declared] = []
    waiting = dict(sorted(declarations.items()))
    while waiting:
        ready = [declaration for declaration in waiting.values() if not declaration.replaces & waiting.keys()]
        # Files name only earlier ones, so that no circle is possible; where files were edited into one, take all.
        for declaration in ready or list(waiting.values()):
            ordered.append(waiting.pop(declaration.id))
    return ordered


def find_current(declarations: list[Declared]) -> dict[str, Declared]:
    """The declaration that counts for each key: the last one that names it."""
    return {key: declaration for declaration in declarations for key in declaration.evaluations}


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


def read_run(history: History, published: Published) -> Run:
    """The run of a history; raises HistoryError."""
    content = history.read(published, "run")
    if content is None:
        raise HistoryError(f"the run {published.id} cannot be used: {history.problems[-1]}")
    try:
        return record.parse_run(content, history.place.shown("runs", published.id))
    except record.RecordError as error:
        raise HistoryError(str(error)) from None


def list_lost_tasks(history: History, run: Run, current: Mapping[str, Declared]) -> list[tuple[str, str, str]]:
    """Job, task and baseline of what a baseline holds and this run lacks: its numbers would be compared no more.

    What a baseline that cannot be read held is not known, and a new one is the remedy.
    """
    published = {each.id: each for each in history.runs()}
    now = list_tasks_of_jobs(run)
    lost = set()
    for key, job in list_jobs(run).items():
        declared = current.get(key)
        if declared is not None and declared.run in published:
            with suppress(HistoryError):
                before = declared.evaluations[key]
                held = list_tasks_of_jobs(read_run(history, published[declared.run])).get(before, set())
                lost |= {(before, task, declared.run) for task in held - now[job]}
    return sorted(lost)


def list_jobs(run: Run) -> dict[str, str]:
    """Key of everything that a run evaluated -> the job whose answers count for it: of two with one key the last."""
    return {identity(each.job, each.environment): each.job.name for each in run.evaluations}


def list_tasks_of_jobs(run: Run) -> dict[str, set[str]]:
    """Job -> the tasks that it measured."""
    return {each.job.name: {measurement.task for measurement in each.measurements} for each in run.evaluations}


def list_left_out(run: Run, current: Mapping[str, Declared]) -> set[LeftOut]:
    """What the baselines before left out by name, and this run still lacks."""
    now = list_tasks_of_jobs(run)
    before = [current[key] for key in list_jobs(run) if key in current]
    return {each for declared in before for each in declared.without if each.task not in now.get(each.job, ())}


def declare(history: History, published: Published, reason: str, *, fewer: bool = False) -> Declared:
    """Declare a run good for everything that it evaluated.

    Args:
        fewer: the run may lack tasks that the baselines which it replaces hold.

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
    lost = list_lost_tasks(history, run, current)
    if not fewer:
        reasons += [
            f"it lacks {task} of {job}, which its baseline, the run {name}, holds: that would be compared no more; "
            "run all tasks of the job, or give --fewer if that is meant"
            for job, task, name in lost
        ]
    if reasons:
        raise HistoryError(f"{published.id} is refused as a baseline:\n" + "\n".join(f"  {why}" for why in reasons))
    newest = sorted({each.id for each in current.values()} | {each.id for each in before[-1:]})
    now = datetime.now(UTC)
    name = f"{now:%Y%m%dT%H%M%SZ}-{uuid.uuid4().hex[:8]}"
    left_out = list_left_out(run, current) | {LeftOut(job, published.gpu, task, name) for job, task, _ in lost}
    content = {
        "format": store.FORMAT,
        "id": name,
        "run": published.id,
        "reason": reason.strip(),
        "declared": now.isoformat(timespec="seconds"),
        "replaces": newest,
        "evaluations": list_jobs(run),
        "without": sorted(left_out),
    }
    history.place.add(f"baselines/{content['id']}.json", store.seal(content))
    return Declared(str(content["id"]), content)


class Baselines:
    """The baselines of a history for one session: found once, samples read when they are needed."""

    def __init__(self, history: History) -> None:
        self.history = history
        self.by_key = find_current(list_declarations(history))
        self.damaged_declarations = list(history.problems)
        self.runs = {run.id: run for run in history.runs()} if self.by_key else {}
        self.read: dict[str, Baseline | None] = {}

    def find(self, evaluation: Evaluation) -> Baseline | None:
        """The baseline of an evaluation; None where none was declared for it, on such a GPU.

        Raises HistoryError when there is one that cannot be read.
        """
        key = identity(evaluation.job, evaluation.environment)
        if key not in self.by_key:
            return None
        if key not in self.read:
            self.read[key] = self.load(key, self.by_key[key])
        return self.read[key]

    def load(self, key: str, declared: Declared) -> Baseline:
        """Read the declared run: its evaluation and its answers."""
        published = self.runs.get(declared.run)
        content = self.history.read(published, "samples") if published else None
        if published is None or content is None:
            told = [str(problem) for problem in self.history.problems if declared.run in problem.path]
            why = "; ".join(told) or "it is gone"
            raise HistoryError(f"the baseline run {declared.run} cannot be read: {why}", RESTORE_RUN)
        job = declared.evaluations[key]
        run = read_run(self.history, published)
        evaluation = next((each for each in run.evaluations if each.job.name == job), None)
        if evaluation is None:
            why = f"the baseline run {declared.run} cannot be read: it did not evaluate {job}"
            raise HistoryError(why, RESTORE_RUN)
        return Baseline(
            name=f"the run {declared.run}",
            samples=from_parquet(content, {job}),
            engine=evaluation.engine,
            evaluation=evaluation,
            probe_tokens=read_probe_tokens(evaluation.environment),
            remedy=DECLARE,
        )

    def leaves_out(self, value: PublishedValue, gpu: str | None, since: str) -> bool:
        """Whether the baselines leave out a number by name: all of its tasks, and since a run that compared it.

        Args:
            gpu: of the session; None: whichever.
            since: id of that run.
        """
        left_out = {
            each.task
            for declared in self.by_key.values()
            for each in declared.without
            if each.job == value.job.name and gpu in (None, each.gpu) and each.declaration > since
        }
        return left_out.issuperset(task for task, _ in baseline_gate.list_tasks(value))

    def explain_absence(self, number: str, gpu: str | None) -> str | None:
        """Why a number that has a baseline may find none: it was declared for another evaluation.

        None where no declared run on this GPU (None: on any) holds the number, and all declarations can be read.
        """
        if self.unreadable:
            return f"it is not known which numbers have one: {self.unreadable[0]}"
        for published, numbers in self.numbers:
            if number in numbers and gpu in (None, published.gpu):
                return f"the run {published.id} was declared for another evaluation of this number"
        return None

    @cached_property
    def numbers(self) -> list[tuple[Published, frozenset[str]]]:
        """Each run that is somebody's baseline, with the ids of the numbers that it holds one for."""
        jobs: dict[str, set[str]] = {}
        for key, declared in self.by_key.items():
            jobs.setdefault(declared.run, set()).add(declared.evaluations[key])
        held = []
        for name, names in jobs.items():
            published = self.runs.get(name)
            if published is not None:
                run = read_run(self.history, published)
                held.append((published, frozenset(kept.id for kept in run.records if kept.job in names)))
        return held

    @cached_property
    def unreadable(self) -> list[str]:
        """Declarations and declared runs that cannot be read: nobody knows what they hold baselines for."""
        gone = {declared.run for declared in self.by_key.values() if declared.run not in self.runs}
        damaged = [str(problem) for problem in self.damaged_declarations]
        return [*damaged, *(f"the baseline run {name} is gone or damaged" for name in sorted(gone))]


def read_probe_tokens(environment: Mapping[str, Any]) -> tuple[int, ...] | None:
    """What a fixed text became for the model of an evaluation; None where that was not kept."""
    tokens = environment.get("probe_tokens")
    return tuple(tokens) if isinstance(tokens, list | tuple) else None
