"""Which numbers had a baseline in other runs of a store: a history that is lost does not end their comparison."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import NamedTuple

from scanproof.history.run_failures import name_some
from scanproof.history.store import gpu_name
from scanproof.numbers.verdict.paired_tests import ComparisonOutcome
from scanproof.record import Record, Run

MEND_RUN = (
    "put an untouched copy of their files in place; to forget what they compared, move their folders away "
    "(`scanproof list --run ID` says what is wrong)"
)


class Held(NamedTuple):
    """That a number had a baseline."""

    run: str
    """Id of the run that says so."""
    newest: str | None
    """Id of the newest declaration at that time; None: it is not known."""


def list_due_before(runs: Iterable[Run], gpu: str) -> dict[str, Held]:
    """Number -> the newest of these runs that was strict, on this GPU, and in which it had a baseline.

    Args:
        runs: the newest first.
    """
    due: dict[str, Held] = {}
    for run in runs:
        if run.strict and gpu_name(run.environment.get("gpus")) == gpu:
            known = run.baselines
            had = {kept.id for kept in run.records if had_baseline(kept, run)}.union(known.numbers if known else ())
            due = {**dict.fromkeys(had, Held(run.id, known.newest if known else None)), **due}
    return due


def describe_unread(runs: Collection[str]) -> str:
    """That runs of the store cannot be read."""
    return f"of the store's runs {len(runs)} cannot be read: {name_some(sorted(runs))}"


def had_baseline(kept: Record, run: Run) -> bool:
    """Whether a number has a comparison with a baseline in its run, made or refused.

    Not a refused one of a run that could not read its history: it does not know which numbers have a baseline.
    """
    if kept.gate is None:
        return False
    return kept.gate.outcome is not ComparisonOutcome.REFUSED or run.baselines is not None
