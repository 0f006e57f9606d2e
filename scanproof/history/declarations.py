"""Declarations of baselines: runs that a person declared good.  Each is a new file and is never changed.

A declaration names the ones that it replaces.  So the newest is known without trusting any machine's clock.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from scanproof.files import to_sorted_json
from scanproof.history import store
from scanproof.history.storage import sha256
from scanproof.history.store import History
from scanproof.numbers.values import EvalJob
from scanproof.record import Run

IDENTITY = (
    "model", "pretrained", "revision", "model_args", "dtype", "device", "num_fewshot", "batch_size", "max_length",
    "limit", "seed",
)  # fmt: skip
"""Fields of a job that two evaluations must share to be compared; tasks are compared one by one."""


ALL = "*"
"""In place of a task: every task."""
NAME = "the run "
"""What the name of a declared run in a comparison begins with."""


class LeftOut(NamedTuple):
    """A task that somebody declared to be compared no more."""

    job: str
    """Its name in the run that lacks the task."""
    gpu: str
    """GPU of that run."""
    task: str
    """`*`: every task that the run lacks, because its baseline could not be read."""
    declaration: str
    """Id of the declaration that said so last."""


@dataclass(frozen=True)
class Declared:
    """One declaration."""

    id: str
    content: dict[str, Any]

    @property
    def run(self) -> str:
        return str(self.content["run"])

    @property
    def name(self) -> str:
        """Its run as comparisons name it."""
        return f"{NAME}{self.run}"

    @property
    def gpu(self) -> str | None:
        """GPU of its run; None in declarations until November 2026."""
        return self.content.get("gpu")

    @property
    def replaces(self) -> frozenset[str]:
        return frozenset(self.content["replaces"])

    @property
    def given_up(self) -> frozenset[str]:
        """Ids of declarations that could not be read, and are no longer looked for."""
        return frozenset(map(str, self.content.get("given_up", ())))

    @property
    def evaluations(self) -> dict[str, str]:
        """Key of what was evaluated and on what, to the job's name in the run."""
        return dict(self.content["evaluations"])

    @property
    def without(self) -> frozenset[LeftOut]:
        """What earlier baselines held and its run lacks, as was meant."""
        return frozenset(LeftOut(*map(str, each)) for each in self.content.get("without", ()))


def is_name(baseline: str) -> bool:
    """Whether what a comparison names is a declared run."""
    return baseline.startswith(NAME)


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
    """Sort declarations into the order in which they were made; those that do not know of each other by their ids.

    Ids begin with a time: one that replaces what is lost does not come before what is older.
    """
    ordered: list[Declared] = []
    waiting = dict(sorted(declarations.items()))
    while waiting:
        ready = (declaration for declaration in waiting.values() if not declaration.replaces & waiting.keys())
        # Files name only earlier ones, so that no circle is possible; where files were edited into one, take the first.
        first = next(ready, None) or next(iter(waiting.values()))
        ordered.append(waiting.pop(first.id))
    return ordered


def list_lost(history: History, declarations: Iterable[Declared]) -> frozenset[str]:
    """Ids of declarations that cannot be read: damaged, or replaced by others and gone."""
    declared = {each.id: each for each in declarations}
    names = {name.removesuffix(".json") for name in history.place.sizes("baselines") if name.endswith(".json")}
    known = names.union(*(each.replaces for each in declared.values()))
    return frozenset(known - declared.keys())


def list_given_up(declarations: Iterable[Declared]) -> frozenset[str]:
    """Ids of lost declarations that somebody gave up: what they held has no baseline until a run of it is declared."""
    return frozenset().union(*(each.given_up for each in declarations))


def list_replaced(name: str, declarations: Iterable[Declared]) -> frozenset[str]:
    """Ids of all declarations that one replaced, directly or not: it was made after them."""
    declared = {each.id: each for each in declarations}
    found: set[str] = set()
    waiting = {name}
    while waiting:
        each = declared.get(waiting.pop())
        new = each.replaces - found if each is not None else frozenset()
        found |= new
        waiting |= new
    return frozenset(found)


def find_current(declarations: Iterable[Declared]) -> dict[str, Declared]:
    """The declaration that counts for each key: the last one that names it."""
    return {key: declaration for declaration in declarations for key in declaration.evaluations}


def list_jobs(run: Run) -> dict[str, str]:
    """Key of everything that a run evaluated -> the job that counts for it: the last one of two with one key."""
    return {identity(each.job, each.environment): each.job.name for each in run.evaluations}


def list_tasks_of_jobs(run: Run) -> dict[str, set[str]]:
    """Job -> the tasks that it measured."""
    return {each.job.name: {measurement.task for measurement in each.measurements} for each in run.evaluations}
