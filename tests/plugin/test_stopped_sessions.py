"""Sessions that were stopped, and machines that fail: never a pass, never a whole run, never a traceback of ours."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import pytest

from tests.support.small_project import Project

BREAKING_HOOK = """
import pytest

@pytest.hookimpl(tryfirst=True)
def pytest_scanproof_evaluate(job):
    with open("calls.log", "a") as log:
        log.write(job.name + "\\n")
    raise OSError(28, "No space left on device")
"""

CRASH = """
import os
import pytest

def pytest_runtest_call(item):
    if "perplexity" in item.nodeid and "one" in item.nodeid:
        os._exit(3)
"""


def test_a_run_that_stopped_early_is_partial_and_says_so(project: Project) -> None:
    project.document()
    project.answer({"kind": "killed", "message": "gone"})
    result = project.run("-x")
    result.stdout.fnmatch_lines(["*1 numbers: 1 ERROR; 5 more were selected and not reached: this run is partial*"])
    run: Any = project.latest_run()
    assert (run["finished"], run["selected"], len(run["records"])) == (None, 6, 1)


def test_whatever_the_hook_raises_is_an_error_of_its_numbers_and_not_tried_again(project: Project) -> None:
    project.document(models=("one",))
    (project.root / "plug.py").write_text(BREAKING_HOOK)
    result = project.run("-p", "plug")
    result.assert_outcomes(errors=3)
    result.stdout.fnmatch_lines(["*not measured: worker: OSError: *No space left on device*"])
    assert (project.root / "calls.log").read_text().splitlines() == ["900-one-0shot"]
    assert len(project.latest_run()["records"]) == 3  # type: ignore[arg-type]


def test_a_store_that_cannot_be_written_is_a_usage_error(project: Project) -> None:
    project.document(models=("one",))
    (project.root / "file").write_text("not a folder")
    result = project.run("--scanproof-store=file/store")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*runs cannot be kept in *file/store/runs*--scanproof-store=DIR*"])
    assert "Traceback" not in result.stdout.str() + result.stderr.str()


def test_a_process_that_died_leaves_an_error_and_not_a_gap(project: Project) -> None:
    project.document()
    (project.root / "crash.py").write_text(CRASH)
    environment = {**os.environ, "PYTHONPATH": str(project.root)}
    command = [sys.executable, "-m", "pytest", "-n", "2", "-p", "crash", "-p", "no:cacheprovider"]
    result = subprocess.run(command, cwd=project.root, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == pytest.ExitCode.TESTS_FAILED
    run: Any = project.latest_run()
    outcomes = {record["id"]: record["outcome"] for record in run["records"]}
    assert outcomes["one-lambada_openai-perplexity-author"] == "ERROR"
    assert list(outcomes.values()).count("REPRODUCED") == 5


def test_two_sessions_in_one_second_are_two_runs(project: Project) -> None:
    """A result of the first must never serve the second: both ask for fresh numbers."""
    project.document(models=("one",))
    program = (
        "import pytest, pathlib, sys;"
        "arguments = ['-q', '-p', 'no:cacheprovider', '--scanproof-fresh'];"
        "good = pytest.main(arguments);"
        "answers = pathlib.Path('answers.json');"
        "answers.write_text(answers.read_text().replace('0.5,', '0.1,'));"
        "bad = pytest.main(arguments);"
        "sys.exit(0 if (int(good), int(bad)) == (0, 1) else f'{good} {bad}')"
    )
    result = subprocess.run(
        [sys.executable, "-c", program], cwd=project.root, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr


def test_a_limit_in_the_expected_file_is_honoured_and_never_compared(project: Project) -> None:
    path = project.document(models=("one",)) / "one.yaml"
    path.write_text(path.read_text().replace("  batch_size: 8\n", "  batch_size: 8\n  limit: 5\n"))
    project.run().assert_outcomes(skipped=3)
    assert project.jobs()[0][2] == 5


def test_strict_refuses_a_limit(project: Project) -> None:
    result = project.run("--scanproof-strict", "--scanproof-limit=5")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*a strict run compares every number; leave out --scanproof-limit*"])


def test_a_folder_behind_a_space_that_hid_the_ini_file_is_explained(
    project: Project, tmp_path_factory: pytest.TempPathFactory
) -> None:
    project.document(models=("one",))
    mirror = tmp_path_factory.mktemp("mirror")
    result = project.run("--scanproof-mirror", str(mirror))
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"*write --scanproof-mirror={mirror}*"])
    project.run(f"--scanproof-mirror={mirror}").assert_outcomes(passed=3)


def test_a_listing_of_a_run_shows_the_numbers_of_that_run(project: Project) -> None:
    path = project.document(models=("one",)) / "one.yaml"
    project.run()
    path.write_text(path.read_text().replace('"50.0"', '"10.0"'))
    command = [sys.executable, "-m", "scanproof", "list", "--run", "latest", "--format", "csv"]
    shown = subprocess.run(command, cwd=project.root, capture_output=True, text=True, check=True).stdout
    assert "50.0" in shown.splitlines()[1]
    assert "since then the expected value was changed to 10.0 percent" in shown
