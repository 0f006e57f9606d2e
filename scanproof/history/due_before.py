"""Which numbers had a baseline in other runs of a store: a history that is lost does not end their comparison."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from scanproof.history.declarations import is_name
from scanproof.history.run_failures import has_compared_documents, name_some
from scanproof.history.store import gpu_name
from scanproof.record import KnownBaselines, Record, Run

MEND_RUN = (
    "put an untouched copy of their files in place; to forget what they compared, move their folders away "
    "(`scanproof list --run ID` says what is wrong)"
)


class Held(NamedTuple):
    """That a number had a baseline."""

    run: str
    """Id of the run that says so."""
    newest: str | None
    """Id of the newest declaration in the history when that run began; None: it is not known."""
    first: str | None = None
    """Id of the first one in that history."""


@dataclass(frozen=True)
class OtherRuns:
    """What the other runs of a store say of baselines."""

    held: Mapping[str, tuple[Held, ...]] = field(default_factory=dict)
    """Number -> strict runs in which it had a declared baseline, as `list_due_before` says."""
    gpu: str | None = None
    """The GPU of those runs; None where that does not matter."""
    unread: Collection[str] = ()
    """Ids of runs that cannot be read: nobody knows which numbers had a baseline in them."""


def list_due_before(runs: Iterable[Run], gpu: str) -> dict[str, tuple[Held, ...]]:
    """Number -> the strict runs on this GPU in which it had a baseline; for each newest declaration the newest of them.

    Args:
        runs: the newest first.
    """
    due: dict[str, dict[tuple[str | None, str | None], Held]] = {}
    for run in runs:
        if run.strict and gpu_name(run.environment.get("gpus")) == gpu:
            known = run.baselines or KnownBaselines(newest=None, numbers=())
            for number in {kept.id for kept in run.records if had_baseline(kept)}.union(known.numbers):
                held = Held(run.id, known.newest, known.first)
                due.setdefault(number, {}).setdefault(held[1:], held)
            for owed in run.owed:
                held = Held(owed.run, owed.newest, owed.first)
                due.setdefault(owed.number, {}).setdefault(held[1:], held)
    return {number: tuple(held.values()) for number, held in due.items()}


def describe_unread(runs: Collection[str]) -> str:
    """That runs of the store cannot be read."""
    return f"{len(runs)} of the store's runs cannot be read: {name_some(sorted(runs))}"


def had_baseline(kept: Record) -> bool:
    """Whether a number was compared with a baseline, or was refused that with a declared run, which is named.

    Other refusals are those of a run that could not know whether the number has one.
    """
    return has_compared_documents(kept) or (kept.gate is not None and is_name(kept.gate.baseline))
