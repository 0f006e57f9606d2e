"""Which numbers had a declared baseline in earlier runs of a store: a history that is lost does not end that."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from scanproof.history.store import gpu_name
from scanproof.numbers.verdict.paired_tests import ComparisonOutcome
from scanproof.record import Record, Run


class Held(NamedTuple):
    """That a number had a baseline."""

    run: str
    """Id of the run that says so."""
    declaration: str | None
    """Id of the declaration of that baseline; None: it is not known."""


def list_due_before(runs: Iterable[Run], gpu: str) -> dict[str, Held]:
    """Number -> the newest of these runs that was strict, on this GPU, and in which it had a baseline.

    Args:
        runs: the newest first.
    """
    due: dict[str, Held] = {}
    for run in runs:
        if run.strict and gpu_name(run.environment.get("gpus")) == gpu:
            had = {kept.id: None for kept in run.records if had_baseline(kept, run)}
            held = {number: Held(run.id, declaration) for number, declaration in {**had, **(run.held or {})}.items()}
            due = {**held, **due}
    return due


def had_baseline(kept: Record, run: Run) -> bool:
    """Whether a number has a comparison with a baseline in its run, made or refused.

    Not a refused one of a run that could not read its history: it does not know which numbers have a baseline.
    """
    if kept.gate is None:
        return False
    return kept.gate.outcome is not ComparisonOutcome.REFUSED or run.held is not None
