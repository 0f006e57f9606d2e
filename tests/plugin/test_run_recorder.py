"""The run on disk: one per session, readable even when the session was killed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from scanproof import record
from scanproof.history import new_baseline, run_failures
from tests.support.small_jobs import wait_until
from tests.support.small_project import Project

SLEEPY = """
import time
import pytest

@pytest.hookimpl(tryfirst=True)
def pytest_scanproof_evaluate(job):
    if job.name.startswith("900-two"):
        time.sleep(3600)
"""


def test_a_run_holds_records_evaluations_and_samples(project: Project) -> None:
    project.document(models=("one",))
    project.run()
    run: Any = project.latest_run()
    assert run["schema_version"] == 4
    assert run["finished"] is not None
    assert [record["outcome"] for record in run["records"]] == ["REPRODUCED"] * 3
    assert run["evaluations"][0]["measurements"][0]["value"] == 0.5
    assert len((Path(run["records"][0]["samples"]) / "arc_easy.jsonl").read_text().splitlines()) == 2376
    assert run["environment"]["packages"]["scanproof"]


def test_each_session_is_a_run_of_its_own(project: Project) -> None:
    project.document(models=("one",))
    project.run()
    project.run()
    assert len(list((project.root / ".scanproof" / "runs").iterdir())) == 2


def test_a_failed_test_beside_the_numbers_leaves_no_run_that_is_called_good(project: Project) -> None:
    """A kernel's test leaves no record, and a number that was measured with a wrong kernel is no baseline."""
    project.document(models=("one",))
    project.pytester.makepyfile(test_kernel="def test_kernel():\n    assert False\n")
    assert project.run("--scanproof-strict").ret == pytest.ExitCode.TESTS_FAILED
    run = record.read_run(record.find_run(project.root / ".scanproof" / "runs", "latest"))
    said = "1 tests failed without a record that says so: test_kernel.py::test_kernel"
    assert run_failures.list_failures(run) == [said]
    assert f"it failed: {said}" in new_baseline.why_not_good(run)


def records(project: Project) -> object:
    """Those of the newest run, as far as it is on disk."""
    return any((project.root / ".scanproof" / "runs").glob("*/run.json")) and project.latest_run()["records"]


def test_a_session_killed_half_way_leaves_a_readable_partial_run(project: Project) -> None:
    project.document()
    (project.root / "sleepy.py").write_text(SLEEPY)
    command = [sys.executable, "-m", "pytest", "-p", "sleepy", "-p", "no:cacheprovider"]
    environment = {**os.environ, "PYTHONPATH": str(project.root)}
    session = subprocess.Popen(command, cwd=project.root, env=environment, stdout=subprocess.DEVNULL)
    try:
        assert wait_until(lambda: records(project) or session.poll() is not None), "nothing was recorded"
        assert session.poll() is None, f"the session ended with {session.returncode}"
    finally:
        session.kill()
        session.wait()
    run: Any = project.latest_run()
    assert run["finished"] is None
    assert [record["id"] for record in run["records"]][:1] == ["one-arc_easy-acc-author"]
    listed = subprocess.run(
        [sys.executable, "-m", "scanproof", "list", "--run", "latest"],
        cwd=project.root, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "one-arc_easy-acc-author" in listed.stdout


@pytest.mark.parametrize("workers", ["2", "3"])
def test_with_xdist_each_job_runs_once_and_the_run_is_whole(project: Project, workers: str) -> None:
    project.document()
    result = project.run("-n", workers)
    result.assert_outcomes(passed=6)
    assert len(project.latest_run()["records"]) == 6  # type: ignore[arg-type]
    result.stdout.fnmatch_lines(["*6 numbers: 6 REPRODUCED*"])


def test_dash_k_evaluates_only_the_tasks_it_selects(project: Project) -> None:
    project.document()
    project.run("-k", "lambada and one").assert_outcomes(passed=1, deselected=5)
    assert [job[1] for job in project.jobs()] == [["lambada_openai"]]


def test_dash_x_stops_before_the_next_job(project: Project) -> None:
    project.document()
    project.answer({"kind": "out_of_memory", "message": "no memory"})
    project.run("-x").assert_outcomes(errors=1)
    assert len(project.jobs()) == 1


def test_last_failed_selects_the_number_that_failed(project: Project) -> None:
    project.document(models=("one",))
    project.answer(
        [
            ["arc_easy", "acc", 0.3, 2376],
            ["arc_easy", "acc_norm", 0.45, 2376],
            ["lambada_openai", "perplexity", 8.14, 5153],
        ]
    )
    project.pytester.runpytest_subprocess().assert_outcomes(passed=2, failed=1)
    project.pytester.runpytest_subprocess("--lf").assert_outcomes(failed=1)


def test_collect_only_evaluates_nothing(project: Project) -> None:
    project.document()
    project.run("--collect-only")
    assert project.jobs() == []
    assert not (project.root / ".scanproof").exists()
