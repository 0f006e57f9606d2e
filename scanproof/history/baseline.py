"""The baselines of a session: what of the declared runs its evaluations are compared with."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from scanproof import record
from scanproof.history.declarations import (
    ALL,
    Declared,
    find_current,
    identity,
    list_declarations,
    list_given_up,
    list_lost,
    list_replaced,
)
from scanproof.history.due_before import Held
from scanproof.history.errors import HistoryError
from scanproof.history.samples import from_parquet
from scanproof.history.store import History, Published
from scanproof.numbers.values import PublishedValue
from scanproof.numbers.verdict import baseline_gate
from scanproof.numbers.verdict.baseline_gate import Baseline
from scanproof.record import Evaluation, Run

DECLARE = "if the change is meant, declare a new baseline: scanproof baseline set RUN --reason WHY"
RESTORE_DECLARATION = (
    "restore its file in the folder `baselines` of the history, or declare a run again: scanproof baseline set RUN "
    "--reason WHY --give-up ID"
)
RESTORE_RUN = "restore the history, or declare another run: scanproof baseline set RUN --reason WHY"


def read_run(history: History, published: Published) -> Run:
    """The run of a history; raises HistoryError."""
    content = history.read(published, "run")
    if content is None:
        raise HistoryError(f"the run {published.id} cannot be used: {history.problems[-1]}")
    try:
        return record.parse_run(content, history.place.shown("runs", published.id))
    except record.RecordError as error:
        raise HistoryError(str(error)) from None


class Baselines:
    """The baselines of a history for one session: found once, samples read when they are needed."""

    def __init__(self, history: History) -> None:
        self.history = history
        self.declarations = list_declarations(history)
        self.by_key = find_current(self.declarations)
        self.lost = list_lost(history, self.declarations)
        self.runs = {run.id: run for run in history.runs()} if self.by_key else {}
        self.read: dict[str, Baseline | None] = {}

    def find(self, evaluation: Evaluation) -> Baseline | None:
        """The baseline of an evaluation; None where none was declared for it, on such a GPU.

        Raises HistoryError when there is one that cannot be read, or there may be a newer one.
        """
        key = identity(evaluation.job, evaluation.environment)
        if key not in self.by_key:
            return None
        declared = self.by_key[key]
        if newer := self.lost - list_replaced(declared.id, self.declarations):
            why = f"that of {declared.name} may not be the newest: {self.name_lost(newer)}"
            raise HistoryError(why, RESTORE_DECLARATION)
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
            name=declared.name,
            samples=from_parquet(content, {job}),
            engine=evaluation.engine,
            evaluation=evaluation,
            probe_tokens=read_probe_tokens(evaluation.environment),
            remedy=DECLARE,
        )

    def leaves_out(self, value: PublishedValue, gpu: str | None, held: Held) -> bool:
        """Whether the baselines leave out a number by name: all of its tasks, and later than it had a baseline.

        Args:
            gpu: of the session; None: whichever.
            held: when it had one.  Where the newest declaration of then is not here, times decide.
        """
        left_out = {
            each.task
            for declared in self.by_key.values()
            for each in declared.without
            if each.job == value.job.name and gpu in (None, each.gpu) and self.is_later(each.declaration, held)
        }
        return ALL in left_out or left_out.issuperset(task for task, _ in baseline_gate.list_tasks(value))

    def is_later(self, declaration: str, held: Held) -> bool:
        """Whether a declaration is newer than what a run knew.  Where the newest of these is lost, time decides."""
        order = {each.id: place for place, each in enumerate(self.declarations)}
        if held.newest in order:
            return order.get(declaration, -1) > order[held.newest]
        if held.newest in list_replaced(declaration, self.declarations):
            return True
        return declaration > max(held.run, held.newest or "")

    def explain_older(self, evaluation: Evaluation, known: Iterable[Held]) -> str | None:
        """Why the baseline of an evaluation may not be the newest: another run knew a newer declaration, which is gone.

        Args:
            known: what other runs knew; of other histories nothing is asked.
        """
        declared = self.by_key.get(identity(evaluation.job, evaluation.environment))
        if declared is None:
            return None
        here = {each.id for each in self.declarations}
        for held in known:
            is_gone = held.newest is not None and held.first == self.first and held.newest not in here
            if is_gone and not self.is_later(declared.id, held):
                return f"run {held.run} knew a newer declaration, {held.newest}, which is gone"
        return None

    @cached_property
    def first(self) -> str | None:
        """Id of the first declaration, which tells histories apart; None: there is none."""
        oldest = next(iter(self.declarations), None)
        return None if oldest is None else min({oldest.id, *oldest.replaces})

    def find_holder(self, value: PublishedValue, gpu: str | None) -> Declared | None:
        """The newest declaration of a run on a GPU (None: on any) that holds a number; None: none, or it was left out.

        Raises HistoryError where a declared run cannot be read.
        """
        holders = {run.id for run, numbers in self.numbers if value.id in numbers and gpu in (None, run.gpu)}
        newest = next((each for each in reversed(self.declarations) if each.run in holders), None)
        return None if newest is None or self.leaves_out(value, gpu, Held(newest.run, newest.id)) else newest

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
        missed = self.lost - list_given_up(self.declarations)
        lost = [self.name_lost(missed)] if missed else []
        return [*lost, *(f"the baseline run {name} is gone or damaged" for name in sorted(gone))]

    def name_lost(self, lost: Iterable[str]) -> str:
        """Declarations that cannot be read, each with what is known of it."""
        told = {Path(each.path).stem: str(each) for each in self.history.problems}
        return "; ".join(told.get(name, f"the declaration {name} is gone") for name in sorted(lost))


def read_probe_tokens(environment: Mapping[str, Any]) -> tuple[int, ...] | None:
    """What a fixed text became for the model of an evaluation; None where that was not kept."""
    tokens = environment.get("probe_tokens")
    return tuple(tokens) if isinstance(tokens, list | tuple) else None
