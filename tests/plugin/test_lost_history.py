"""A history that is lost, or that nobody could compare with, does not switch a comparison off that had a baseline."""

from __future__ import annotations

import shutil
from typing import Any

import pytest

from scanproof.history import new_baseline
from scanproof.triage.read_answers import LOOKED_AT
from tests.support.nightly_project import history, lose, with_baseline
from tests.support.small_history import make_run
from tests.support.small_project import Project

STRICT = "--scanproof-strict", "--scanproof-history=history"


@pytest.mark.parametrize("workers", [(), ("-n", "1")], ids=["one process", "xdist"])
def test_an_empty_place_for_the_history_does_not_switch_the_comparison_off(
    nightly: Project, workers: tuple[str, ...]
) -> None:
    with_baseline(nightly)
    strict = (*STRICT, *workers)
    nightly.run(*strict).assert_outcomes(passed=3)
    compared = nightly.latest_run()["id"]
    shutil.move(nightly.root / "history", nightly.root / "away")
    (nightly.root / "history").mkdir()
    # As of developers who use the same store.
    for number in range(LOOKED_AT + 1):
        make_run(nightly.root / ".scanproof", f"{str(compared)[:16]}-zzzzzz{number:02}", strict=False)
    result = nightly.run(*strict)
    result.assert_outcomes(failed=3)
    said = f"*history has no declared baseline of it, and run {compared} had one*"
    result.stdout.fnmatch_lines([said, "*3 COMPARISON_MISSING*"])
    # Whoever does not ask for a history compares with none; and it ends where one is declared again.
    nightly.run("--scanproof-strict", *workers).assert_outcomes(passed=3)
    nightly.run(*strict).assert_outcomes(failed=3)
    shutil.rmtree(nightly.root / "history")
    shutil.move(nightly.root / "away", nightly.root / "history")
    nightly.run(*strict).assert_outcomes(passed=3)


def test_a_night_that_broke_before_it_compared_knows_which_numbers_have_a_baseline(nightly: Project) -> None:
    declared = with_baseline(nightly)
    nightly.answer({"kind": "out_of_memory", "message": "no memory"})
    nightly.run(*STRICT).assert_outcomes(errors=3)
    broken: Any = nightly.latest_run()
    assert [record.get("gate") for record in broken["records"]] == [None] * 3
    assert broken["baselines"] == {"newest": declared.id, "first": declared.id, "numbers": broken["selected_ids"]}
    shutil.rmtree(nightly.root / "history")
    (nightly.root / "history").mkdir()
    nightly.answer()
    result = nightly.run(*STRICT)
    result.assert_outcomes(failed=3)
    result.stdout.fnmatch_lines([f"*no declared baseline of it, and run {broken['id']} had one*"])


def test_a_run_that_cannot_be_read_matters_where_a_number_has_no_baseline(nightly: Project) -> None:
    """Nobody knows whether it had one, until the run is whole again, or is given up."""
    with_baseline(nightly)
    nightly.run(*STRICT).assert_outcomes(passed=3)
    path = nightly.root / ".scanproof" / "runs" / str(nightly.latest_run()["id"]) / "run.json"
    path.write_bytes(path.read_bytes().replace(b'"strict": true', b'"strict": false'))
    assert nightly.run(*STRICT).ret == pytest.ExitCode.OK
    for run in (nightly.root / ".scanproof" / "runs").iterdir():
        if run != path.parent:
            shutil.rmtree(run)
    shutil.rmtree(nightly.root / "history")
    (nightly.root / "history").mkdir()
    result = nightly.run(*STRICT)
    result.assert_outcomes(failed=3)
    result.stdout.fnmatch_lines([f"*it is not known whether it had one: 1 of *cannot be read: {path.parent.name}*"])
    assert nightly.run("--scanproof-history=history").ret == pytest.ExitCode.OK
    # That it was not known is not that it had one.
    shutil.rmtree(path.parent)
    assert nightly.run(*STRICT).ret == pytest.ExitCode.OK


def test_a_declaration_that_is_lost_does_not_bring_an_older_baseline_back(nightly: Project) -> None:
    """What was mended since would be green again when it breaks as before."""
    lose(nightly, arc_easy=24)
    with_baseline(nightly)
    lose(nightly)
    nightly.run(*STRICT).assert_outcomes(passed=1, failed=2)
    kept = history(nightly)
    newer = new_baseline.declare(kept, kept.find("latest"), "it is mended")
    nightly.run(*STRICT).assert_outcomes(passed=3)
    (nightly.root / "history" / "baselines" / f"{newer.id}.json").unlink()
    lose(nightly, arc_easy=24)
    result = nightly.run(*STRICT)
    result.assert_outcomes(failed=3)
    result.stdout.fnmatch_lines([f"*knew a newer declaration, {newer.id}, which is gone*", "*3 COMPARISON_MISSING*"])


def test_a_night_that_is_red_for_a_lost_history_hands_on_why(nightly: Project) -> None:
    """A store that keeps its newest runs only deletes the one in which the numbers had a baseline."""
    with_baseline(nightly)
    nightly.run(*STRICT).assert_outcomes(passed=3)
    compared = str(nightly.latest_run()["id"])
    shutil.rmtree(nightly.root / "history")
    (nightly.root / "history").mkdir()
    for _ in range(2):
        nightly.run(*STRICT).assert_outcomes(failed=3)
        owed: Any = nightly.latest_run()["owed"]
        assert {each["run"] for each in owed} == {compared}
        for run in (nightly.root / ".scanproof" / "runs").iterdir():
            if run.name != nightly.latest_run()["id"]:
                shutil.rmtree(run)
