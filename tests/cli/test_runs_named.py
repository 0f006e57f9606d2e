"""What the command line says of runs whose numbers are not the whole story."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from scanproof import record
from tests.support.command_line import scanproof
from tests.support.small_report import change, make_nights


def test_triage_names_the_kernel_tests_that_made_a_run_red(tmp_path: Path) -> None:
    """No number failed, and yet the run is red."""
    path = make_nights(tmp_path / "store", (300,))[-1]
    tests = [f"tests/kernels/test_numerics.py::test_numerics[case {number}]" for number in range(4)]
    run = change(path, failed_tests=tuple(tests))
    said = scanproof("triage", run.id, "--store", str(tmp_path / "store")).stdout
    assert f"0 numbers failed in {run.id}" in said
    assert f"not green: 4 tests failed without a record that says so: {', '.join(tests[:3])} and 1 more" in said
    assert f"again, for what they say: pytest '{tests[0]}' '{tests[1]}' '{tests[2]}' (and 1 more)" in said


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"finished": None, "exit_code": None}, "it did not finish: the session was stopped, or ended itself"),
        ({"exit_code": 2}, "its session ended with exit code 2"),
    ],
)
def test_triage_says_that_a_session_was_killed_or_ended_badly(
    tmp_path: Path, changes: dict[str, Any], said: str
) -> None:
    path = make_nights(tmp_path / "store", (300,))[-1]
    run = change(path, **changes)
    shown = scanproof("triage", run.id, "--store", str(tmp_path / "store")).stdout.splitlines()
    assert [line for line in shown if line.startswith("not green")] == [f"not green: {said}"]


def test_a_report_and_a_publication_of_latest_name_what_is_newer(tmp_path: Path) -> None:
    store = tmp_path / "store"
    path = make_nights(store, (300,))[-1]
    run = record.read_run(path)
    record.write_run(store / "runs", replace(run, id="29990101T000000Z-none", records=(), selected=0, finished=None))
    warning = f"latest is {run.id}: 29990101T000000Z-none is newer, and measured nothing and did not finish\n"
    page = str(tmp_path / "page.html")
    assert warning in scanproof("report", "latest", "--store", str(store), "--out", page).stderr
    history = str(tmp_path / "history")
    refused = scanproof("history", "add", "latest", "--store", str(store), "--history", history, expect=2)
    assert f"there is no folder {history}; mend the name" in refused.stderr
    assert not Path(history).exists(), "the next night would find it, and no drift in it"
    Path(history).mkdir()
    assert warning in scanproof("history", "add", "latest", "--store", str(store), "--history", history).stderr
    named = scanproof("report", run.id, "--store", str(store), "--out", page).stderr
    assert "is newer" not in named
