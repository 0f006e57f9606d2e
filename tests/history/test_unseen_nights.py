"""Nights that are there and are not looked at: they are named, and nothing passes because of them."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import typer

from scanproof.cli import drift_verdict
from scanproof.history import nights, prune
from scanproof.history.publish import publish
from tests.support.builders import CONSTANTS
from tests.support.small_history import ENVIRONMENT, filled, make_run, rows

FIRST, SECOND, *_ = NIGHTS = [f"202601{index + 1:02}T010000Z-{index:08}" for index in range(10)]


def test_drift_says_of_every_gpu_how_much_it_looked_at(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The newest night's GPU has to have enough nights; another one with a single night fails nothing."""
    made = filled(tmp_path, *NIGHTS)
    other = {**ENVIRONMENT, "gpus": [{"name": "Another GPU", "driver_version": "1"}]}
    publish(make_run(tmp_path / "other", "20251231T010000Z-0000000x", environment=other), made.place)
    found = nights.drifts(made, CONSTANTS)
    drift_verdict.say_how_much(found, err=False)
    said = ["NVIDIA H200: 10 nights, 1 series compared", "Another GPU: 1 nights, 0 series compared"]
    assert capsys.readouterr().out.splitlines() == said
    drift_verdict.end(made, found, None, declared=False)


def test_drift_is_no_success_where_enough_nights_have_no_series(tmp_path: Path) -> None:
    made = filled(tmp_path, *NIGHTS[:9])
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


def test_prune_deletes_a_link_and_nothing_of_what_it_leads_to(tmp_path: Path) -> None:
    history = filled(tmp_path, FIRST)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "mine").write_bytes(b"kept")
    link = Path(history.place.root) / "runs" / "20200101T000000Z-aaaaaaaa"
    link.symlink_to(elsewhere)
    prune.carry_out(history, prune.unfinished(history))
    assert (link.is_symlink(), (elsewhere / "mine").read_bytes()) == (False, b"kept")


@pytest.mark.parametrize(("age", "lost"), [(timedelta(hours=1), False), (timedelta(days=3), True)])
def test_a_publication_that_was_stopped_long_ago_is_lost(tmp_path: Path, age: timedelta, lost: bool) -> None:
    """A night whose manifest is gone was taken for one that is still being written, at any age."""
    name = f"{datetime.now(UTC) - age:%Y%m%dT%H%M%SZ}-00000001"
    history = filled(tmp_path, name)
    (Path(history.place.root) / "runs" / name / "manifest.json").unlink()
    assert history.runs() == []
    assert [(name in problem.path, problem.lost) for problem in history.problems] == [(True, lost)]


def test_a_run_that_is_a_link_to_a_folder_is_read(tmp_path: Path) -> None:
    history = filled(tmp_path, FIRST, SECOND)
    folder = Path(history.place.root) / "runs" / FIRST
    folder.rename(tmp_path / "moved")
    folder.symlink_to(tmp_path / "moved")
    assert [run.id for run in history.runs()] == [FIRST, SECOND]
    assert history.problems == []


@pytest.mark.parametrize("target", ["nowhere", "itself", "runs", "a folder without a run"])
def test_a_link_that_leads_to_no_run_is_lost(tmp_path: Path, target: str) -> None:
    history = filled(tmp_path, FIRST)
    runs = Path(history.place.root) / "runs"
    empty = tmp_path / "a folder without a run"
    empty.mkdir()
    (runs / SECOND).symlink_to({"itself": runs / SECOND, "runs": runs}.get(target, tmp_path / target))
    assert [run.id for run in history.runs()] == [FIRST]
    assert [(SECOND in problem.path, problem.lost) for problem in history.problems] == [(True, True)]
