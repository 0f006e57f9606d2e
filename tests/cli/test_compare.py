"""`scanproof compare` says of two runs what a session says: by the ceiling of rounding of the stand-in."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from scanproof.cli.app import run
from scanproof.numbers.verdict.rounding import FLOAT32_CEILING, HIGHEST_CEILING, read_table
from scanproof.record import read_run, write_run
from tests.support.small_history import ENVIRONMENT, STRICT_JOB, make_run, rows

FIRST, SECOND = "20260101T010000Z-00000001", "20260102T010000Z-00000002"
ROW = read_table()["scanproof/mamba1-tiny", "mamba_ssm"]
STAND_IN = replace(
    STRICT_JOB, suite="embedded", dtype="float32", device="cpu", pretrained=ROW.checkpoint, model=ROW.model
)


NUMBER = "mamba1-tiny-piqa-acc-embedded"


def compared(folder: Path, capsys: pytest.CaptureFixture[str], by: float, **fields: Any) -> dict[str, Any]:
    """What the command says of a number in two runs, the second of which has moved one answer by so many nats."""
    job = replace(STAND_IN, **fields)
    moved = rows(400, 300)
    moved[7]["loglikelihoods"][0] += by
    for name, log in ((FIRST, rows(400, 300)), (SECOND, moved)):
        made = {**ENVIRONMENT, "device": job.device}
        path = make_run(folder / "store", name, {"piqa": log}, job=job, environment=made)
        measured = read_run(path)
        if job.suite == "embedded":
            measured = replace(measured, records=(replace(measured.records[0], id=NUMBER),))
        write_run(folder / "store" / "runs", measured)
    assert run(["compare", FIRST, SECOND, "--store", str(folder / "store"), "--format", "json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)["numbers"]
    assert isinstance(row, dict)
    return row


def test_the_stand_in_has_a_ceiling_of_its_own() -> None:
    assert ROW.ceiling < HIGHEST_CEILING < FLOAT32_CEILING


@pytest.mark.parametrize(
    ("by", "outcome"),
    [(0.9 * ROW.ceiling, "SAME"), (-0.9 * ROW.ceiling, "SAME"), (1.1 * ROW.ceiling, "CHANGED"), (-2e-4, "CHANGED")],
)
def test_one_answer_beyond_the_ceiling_of_the_stand_in_is_a_change(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], by: float, outcome: str
) -> None:
    row = compared(tmp_path, capsys, by)
    assert row["compared"] == outcome, row["because"]
    assert row["difference"] == 0, "no document flipped"


@pytest.mark.parametrize(("by", "same"), [(0.9 * ROW.ceiling, 1), (1.1 * ROW.ceiling, 0)])
def test_the_table_counts_what_a_session_calls_the_same(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], by: float, same: int
) -> None:
    compared(tmp_path, capsys, by)
    assert run(["compare", FIRST, SECOND, "--store", str(tmp_path / "store")]) == 0
    shown = capsys.readouterr().out
    assert f"1 numbers, {same} of them the same in both runs" in shown
    assert ("CHANGED" in shown) == (same == 0)


def test_another_stand_in_has_its_own_ceiling(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One that was not measured has the highest: what is a change of the first is none of it."""
    row = compared(tmp_path, capsys, 1.1 * ROW.ceiling, pretrained="scanproof/unknown")
    assert row["compared"] == "SAME", row["because"]


def test_a_published_checkpoint_has_no_ceiling(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    row = compared(tmp_path, capsys, 2e-4, suite="gpu", device="cuda")
    assert row["compared"] == "SAME", row["because"]
