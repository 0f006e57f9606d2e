"""`scanproof history drift`, as a user calls it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import typer

from scanproof.cli import drift_verdict
from scanproof.history import nights
from scanproof.history.publish import publish
from scanproof.history.store import History, open_history
from tests.history.test_history_commands import NUMBER, THIRD, asked, scanproof
from tests.support.builders import CONSTANTS
from tests.support.small_history import ENVIRONMENT, filled, make_run, rows


def test_drift_is_flagged_with_exit_code_1(tmp_path: Path) -> None:
    made = open_history(str(tmp_path / "history"))
    for index in range(14):
        count = 1500 if index < 7 else 1440
        name = f"202601{index + 1:02}T010000Z-{index:08}"
        publish(make_run(tmp_path / "store", name, {"piqa": rows(2000, count)}), made.place)
    found = asked("history", "drift", history=made, expect=1)
    assert found[0]["run"] == "20260108T010000Z-00000007"
    quiet = open_history(str(tmp_path / "quiet"))
    publish(make_run(tmp_path / "store", THIRD), quiet.place)
    assert asked("history", "drift", "--fewest", "1", history=quiet) == []


def nights_of(tmp_path: Path, count: int) -> History:
    return filled(tmp_path, *(f"202601{index + 1:02}T010000Z-{index:08}" for index in range(count)))


def test_drift_says_of_every_gpu_how_much_it_looked_at(tmp_path: Path) -> None:
    """The newest night's GPU has to have enough nights; another one with a single night fails nothing."""
    made = nights_of(tmp_path, 10)
    other = {**ENVIRONMENT, "gpus": [{"name": "Another GPU", "driver_version": "1"}]}
    publish(make_run(tmp_path / "other", "20251231T010000Z-0000000x", environment=other), made.place)
    told = scanproof("history", "drift", history=made.place.name).stdout.splitlines()
    assert told[-2:] == ["NVIDIA H200: 10 nights, 1 series compared", "Another GPU: 1 nights, 0 series compared"]


def test_drift_is_no_success_where_enough_nights_have_no_series(tmp_path: Path) -> None:
    made = nights_of(tmp_path, 9)
    for night in range(3):
        name = f"202602{night + 1:02}T010000Z-{night:08}"
        publish(make_run(tmp_path / "store", name, {"piqa": rows(100 + night, 75)}), made.place)
    assert nights.drifts(made, CONSTANTS).gpus[0] == nights.OnGpu("NVIDIA H200", 12, 0)
    found = nights.Drifts([], (nights.OnGpu("NVIDIA H200", 12, 0),), declared=True, other_documents=())
    with pytest.raises(typer.Exit) as ended:
        drift_verdict.end(made, found, 2, declared=True)
    assert ended.value.exit_code == 2
    young = replace(found, gpus=(nights.OnGpu("NVIDIA H200", 9, 0),))
    drift_verdict.end(made, young, 2, declared=True)


def test_what_is_measured_no_more_is_named_and_fails_nothing(tmp_path: Path) -> None:
    """A drift on a GPU that is gone would keep the command red for ever."""
    made = nights_of(tmp_path, 10)
    gone = {**ENVIRONMENT, "gpus": [{"name": "Another GPU", "driver_version": "1"}]}
    for night in range(12):
        name = f"202512{night + 2:02}T010000Z-{night:08}"
        log = {"piqa": rows(2000, 1500 if night < 6 else 1300)}
        publish(make_run(tmp_path / "other", name, log, environment=gone), made.place)
    assert asked("history", "drift", history=made, expect=1)[0]["gpu"] == "Another GPU"
    # One whose clock is ahead makes nothing old.
    for name in ("20270101T010000Z-00000098", "20260114T010000Z-00000099"):
        publish(make_run(tmp_path / "store", name), made.place)
        scanproof("history", "drift", history=made.place.name, expect=1)
    for night in range(8):
        publish(make_run(tmp_path / "store", f"202602{night + 1:02}T010000Z-{night:08}"), made.place)
    told = scanproof("history", "drift", history=made.place.name)
    said = f"1 numbers had no night for 30 days, and ten nights followed; not looked at: {NUMBER} on Another GPU"
    assert said in told.stderr


def test_drift_says_how_much_it_looked_at_and_refuses_too_little(tmp_path: Path) -> None:
    place = nights_of(tmp_path, 10).place.name
    assert "10 nights, 1 series compared" in scanproof("history", "drift", history=place).stdout
    named = next(Path(place).glob("runs/20260110*"))
    for path in named.iterdir():
        path.unlink()
    named.rmdir()
    few = scanproof("history", "drift", history=place, expect=2)
    assert "9 nights, 0 series compared" in few.stdout
    assert f"too little to look at in {place}: 10 whole nights" in few.stderr
    scanproof("history", "drift", "--fewest", "9", history=place)
    refused = scanproof("history", "drift", "--fewest", "9", "--declared", history=place, expect=2)
    assert "no run on this GPU is declared a baseline" in refused.stderr
    other = {**ENVIRONMENT, "gpus": [{"name": "Another GPU", "driver_version": "1"}]}
    publish(make_run(tmp_path / "other", "20251231T010000Z-0000000x", environment=other), open_history(place).place)
    scanproof("baseline", "set", "20251231", "--reason", "of another GPU", history=place)
    scanproof("history", "drift", "--fewest", "9", "--declared", history=place, expect=2)
    scanproof("baseline", "set", "20260101", "--reason", "the first night", history=place)
    scanproof("history", "drift", "--fewest", "9", "--declared", history=place)
    empty = tmp_path / "empty"
    empty.mkdir()
    for asked_for in ((), ("--fewest", "1")):
        assert "0 nights, 0 series" in scanproof("history", "drift", *asked_for, history=empty, expect=2).stdout


def test_drift_is_no_success_where_the_newest_night_has_other_documents(tmp_path: Path) -> None:
    made = nights_of(tmp_path, 11)
    publish(make_run(tmp_path / "store", "20260201T010000Z-00000012", {"piqa": rows(100, 75)}), made.place)
    for asked_for, code in (("--fewest", "2"), 1), ((), 2):
        told = scanproof("history", "drift", *asked_for, history=made.place.name, expect=code)
        assert (
            "1 numbers have too few nights on as many documents as their newest, so that no drift of them can be "
            f"seen: {NUMBER}; " in told.stderr
        )
    for night in range(9):
        name = f"202602{night + 2:02}T010000Z-{night:08}"
        publish(make_run(tmp_path / "store", name, {"piqa": rows(100, 75)}), made.place)
    assert "21 nights, 1 series" in scanproof("history", "drift", history=made.place.name).stdout


@pytest.mark.parametrize("cut", [1, 11])
def test_drift_is_no_success_where_nights_are_damaged(tmp_path: Path, cut: int) -> None:
    place = nights_of(tmp_path, 11).place.name
    for path in sorted(Path(place).glob("runs/*/manifest.json"))[:cut]:
        path.write_bytes(path.read_bytes()[:300])
    for asked_for in ((), ("--fewest", "1")):
        damaged = scanproof("history", "drift", *asked_for, history=place, expect=2 if cut == 11 else 1)
        assert "is cut short" in damaged.stderr
