"""Baselines of small runs: declared, and found again as a session finds them."""

from __future__ import annotations

from pathlib import Path

import pytest

from scanproof.history import declarations, new_baseline
from scanproof.history.baseline import Baselines
from scanproof.history.store import History, open_history
from scanproof.numbers.expected.reader import Expected, load
from scanproof.record import Evaluation, read_run


@pytest.fixture(scope="module")
def expected() -> Expected:
    return load(Path(__file__).parents[2] / "expected")


def declare(history: History, run: str, reason: str = "it is good") -> declarations.Declared:
    return new_baseline.declare(history, history.find(run), reason)


def evaluation_of(tmp_path: Path, run: str) -> Evaluation:
    return read_run(tmp_path / "store" / "runs" / run / "run.json").evaluations[0]


def found(history: History, evaluation: Evaluation) -> str | None:
    kept = Baselines(open_history(history.place.name)).find(evaluation)
    return kept.name if kept else None
