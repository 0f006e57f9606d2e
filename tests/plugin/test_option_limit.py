"""--scanproof-limit: a subset, which is never compared."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.support.small_project import GOOD, Project


def test_a_subset_is_never_compared_with_a_number_for_the_full_set(project: Project) -> None:
    project.document(models=("one",))
    result = project.run("--scanproof-limit", "10")
    result.assert_outcomes(skipped=3)
    result.stdout.fnmatch_lines(["*3 numbers: 3 NOT_COMPARABLE*"])
    assert project.jobs()[0][2] == 10
    assert project.latest_run()["limit"] == 10


@pytest.mark.parametrize("text", ["0", "-1", "1.5", "many"])
def test_is_a_positive_whole_number(project: Project, text: str) -> None:
    project.document()
    result = project.run(f"--scanproof-limit={text}")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"*a limit is a positive whole number of documents, not '{text}'*"])


LEFT_BEHIND = {
    "variable": ({"SCANPROOF_LIMIT": "10"}, ""),
    "ini file": ({}, "scanproof_limit = 10"),
    "arguments of the ini file": ({}, "addopts = --scanproof-limit=10"),
    "arguments of the variable": ({"PYTEST_ADDOPTS": "--scanproof-limit=10"}, ""),
}


@pytest.mark.parametrize("workers", [(), ("-n", "1")], ids=["one process", "xdist"])
@pytest.mark.parametrize("where", LEFT_BEHIND)
def test_a_limit_that_was_left_behind_fails_the_stand_ins(
    project: Project, monkeypatch: pytest.MonkeyPatch, where: str, workers: tuple[str, ...]
) -> None:
    project.document(suite="embedded", models=("one",))
    variables, line = LEFT_BEHIND[where]
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    project.pytester.makeini(f"[pytest]\n{line}\n")
    result = project.run(*workers)
    result.assert_outcomes(skipped=3)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["not green: 3 numbers of stand-ins were measured on the first 10 documents only, *"])
    assert project.run("--scanproof-limit=5").ret == pytest.ExitCode.OK, "this one is meant"


@pytest.mark.parametrize("suite", ["embedded", "gpu"])
def test_a_limited_session_is_no_pass_and_mends_nothing(project: Project, suite: str) -> None:
    project.document(suite=suite, models=("one",))
    project.answer([["arc_easy", "acc", 0.3, 2376], *GOOD[1:]])
    assert project.run().ret == pytest.ExitCode.TESTS_FAILED
    project.answer()
    assert project.run("--scanproof-limit=10", "--scanproof-report=page.html").ret == pytest.ExitCode.OK
    store, run = project.root / ".scanproof", project.newest_file.parent.name
    command = [sys.executable, "-m", "scanproof"]
    options = ["--store", str(store), "--expected", str(project.root / "expected")]
    shown = subprocess.run([*command, "report", run, *options, "--format", "json"], capture_output=True, text=True)
    verdict = json.loads(shown.stdout)["verdict"]
    assert (verdict["state"], verdict["fixed"]) == ("incomplete", [])
    because = "nothing was compared: the jobs were limited to the first 10 documents of each task"
    assert because in verdict["sentence"]
    assert "Passed" not in (project.root / "page.html").read_text().split("<h1", 1)[1].split("</h1>")[0]
    verified = subprocess.run([*command, "verify", run, *options], capture_output=True, text=True)
    assert verified.returncode == 1
    assert f"not green: {because}\n" in verified.stdout
