"""Which numbers had a declared baseline in earlier runs of a store: a history that is lost does not end that."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from scanproof.history.baseline import read_run_name
from scanproof.history.store import gpu_name
from scanproof.numbers.verdict.paired_tests import ComparisonOutcome
from scanproof.record import Record, Run


class Held(NamedTuple):
    """A run of the store in which a number had a declared baseline."""

    run: str
    baseline: str
    """Id of the declared run."""


def list_due_before(runs: Iterable[Run], gpu: str) -> dict[str, Held]:
    """Number -> the newest of these runs that was strict, on this GPU, and in which it had a declared baseline.

    Not where its comparison was only due: a history that could not be reached does not say which numbers have one.

    Args:
        runs: the newest first.
    """
    due: dict[str, Held] = {}
    for run in runs:
        if run.strict and gpu_name(run.environment.get("gpus")) == gpu:
            compared = {kept.id: name for kept in run.records if (name := read_baseline(kept)) is not None}
            held = {number: Held(run.id, name) for number, name in {**run.held, **compared}.items()}
            due = {**held, **due}
    return due


def was_compared(kept: Record) -> bool:
    """Whether a number was compared with a baseline, whatever came out."""
    return kept.gate is not None and kept.gate.outcome is not ComparisonOutcome.REFUSED


def read_baseline(kept: Record) -> str | None:
    """Id of the declared run that a number was compared with; None where it was not."""
    return read_run_name(kept.gate.baseline) if kept.gate is not None and was_compared(kept) else None
