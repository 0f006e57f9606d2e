"""Nights that are there and are not looked at: they are named, and nothing passes because of them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from scanproof.history import prune
from tests.support.small_history import filled

FIRST, SECOND, *_ = NIGHTS = [f"202601{index + 1:02}T010000Z-{index:08}" for index in range(10)]


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
