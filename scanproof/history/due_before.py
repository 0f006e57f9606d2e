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

    Not where its comparison was only due: a history that could not be reached does not say which numbers have one.

    Args:
        runs: the newest first.
    """
    due: dict[str, Held] = {}
    for run in runs:
        if run.strict and gpu_name(run.environment.get("gpus")) == gpu:
            compared = {kept.id: None for kept in run.records if was_compared(kept)}
            held = {number: Held(run.id, declaration) for number, declaration in {**compared, **run.held}.items()}
            due = {**held, **due}
    return due


def was_compared(kept: Record) -> bool:
    """Whether a number was compared with a baseline, whatever came out."""
    return kept.gate is not None and kept.gate.outcome is not ComparisonOutcome.REFUSED
