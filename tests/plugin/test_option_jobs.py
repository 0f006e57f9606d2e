"""`--scanproof-jobs`: evaluations of the stand-ins side by side; all others one after the other, as ever."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.small_jobs import wait_until
from tests.support.small_mirror import HANGS
from tests.support.small_project import Project

ROOT = Path(__file__).resolve().parents[2]

SIDE = """
import json, os, threading, time
import pytest
from scanproof.plugin import progress as progress_line
from scanproof.errors import EvaluationError
from scanproof.evaluation.process import Progress

BOTH = threading.Barrier(2)
SHOWN = threading.Event()
write = progress_line.ProgressLine.write

def seen(self, text):
    write(self, text)
    SHOWN.set()

progress_line.ProgressLine.write = seen

@pytest.hookimpl(tryfirst=True)
def pytest_scanproof_evaluate(job, settings, progress):
    main = threading.current_thread() is threading.main_thread()
    with open("threads.log", "a") as log:
        log.write(json.dumps([job.name, main]) + "\\n")
    progress(Progress("checkpoint", 0, 0, 1.0))
    what = os.environ["SIDE"]
    if what == "meet":
        BOTH.wait(HANGS)
        assert SHOWN.wait(HANGS), "pytest never looked how far the job is"
    if what == "break one" and "one" in job.name:
        raise EvaluationError("killed", "the worker was killed")
    if what == "wait" and "two" in job.name:
        (settings.store / "waits").touch()
        ends = time.monotonic() + HANGS
        while time.monotonic() < ends:
            time.sleep(0.01)
            if settings.stopped():
                (settings.store / "ended").touch()
                break
        raise EvaluationError("worker", "ended with the session")
    if what == "wait":
        while not (settings.store / "waits").exists():
            time.sleep(0.01)
"""


@pytest.fixture
def side(project: Project, monkeypatch: pytest.MonkeyPatch) -> Callable[..., pytest.RunResult]:
    """Runs two jobs of the stand-ins, whose evaluations do `what` before they answer."""
    (project.root / "side.py").write_text(SIDE.replace("HANGS", str(HANGS)))

    def run(what: str, *arguments: str, suite: str = "embedded") -> pytest.RunResult:
        monkeypatch.setenv("SIDE", what)
        project.document(suite=suite)
        return project.run("-p", "side", *arguments)

    return run


def threads(project: Project) -> list[list[Any]]:
    return sorted(json.loads(line) for line in (project.root / "threads.log").read_text().splitlines())


def test_two_jobs_of_the_stand_ins_run_at_the_same_time(
    project: Project, side: Callable[..., pytest.RunResult]
) -> None:
    result = side("meet", "--scanproof-jobs=2")
    result.assert_outcomes(passed=6)
    assert threads(project) == [["900-one-0shot", False], ["900-two-0shot", False]]
    result.stdout.fnmatch_lines(
        ["[[]1/2] 900-one-0shot: loading the checkpoint (1 s)*", "2 jobs: 2 evaluated, 0 reused"]
    )
    run: Any = project.latest_run()
    assert run["finished"] is not None
    assert [len(run["records"]), len(run["evaluations"])] == [6, 2]


def test_one_at_a_time_where_that_is_asked_for(project: Project, side: Callable[..., pytest.RunResult]) -> None:
    side("nothing", "--scanproof-jobs=1").assert_outcomes(passed=6)
    assert threads(project) == [["900-one-0shot", True], ["900-two-0shot", True]]


def test_published_jobs_never_run_side_by_side(project: Project, side: Callable[..., pytest.RunResult]) -> None:
    side("nothing", "--scanproof-jobs=2", suite="gpu").assert_outcomes(passed=6)
    assert threads(project) == [["900-one-0shot", True], ["900-two-0shot", True]]


def test_processes_of_xdist_run_one_each(project: Project, side: Callable[..., pytest.RunResult]) -> None:
    side("nothing", "--scanproof-jobs=2", "-n", "2").assert_outcomes(passed=6)
    assert threads(project) == [["900-one-0shot", True], ["900-two-0shot", True]]


def test_a_job_that_breaks_is_an_error_of_its_own_numbers(
    project: Project, side: Callable[..., pytest.RunResult]
) -> None:
    side("break one", "--scanproof-jobs=2").assert_outcomes(errors=3, passed=3)
    run: Any = project.latest_run()
    outcomes = {record["job"]: record["outcome"] for record in run["records"]}
    assert outcomes == {"900-one-0shot": "ERROR", "900-two-0shot": "REPRODUCED"}


def test_a_session_that_stops_at_its_first_failure_ends_the_other_job(
    project: Project, side: Callable[..., pytest.RunResult]
) -> None:
    project.answer([["arc_easy", "acc", 0.1, 2376], ["arc_easy", "acc_norm", 0.1, 2376]])
    side("wait", "--scanproof-jobs=2", "-x").assert_outcomes(failed=1)
    assert (project.root / ".scanproof" / "ended").exists()
    run: Any = project.latest_run()
    assert (run["finished"], [record["outcome"] for record in run["records"]]) == (None, ["OUT_OF_TOLERANCE"])


def test_selecting_tests_narrows_jobs_that_run_side_by_side(
    project: Project, side: Callable[..., pytest.RunResult]
) -> None:
    side("meet", "--scanproof-jobs=2", "-k", "arc_easy").assert_outcomes(passed=4, deselected=2)
    assert sorted(job[:2] for job in project.jobs()) == [
        ["900-one-0shot", ["arc_easy"]],
        ["900-two-0shot", ["arc_easy"]],
    ]


@pytest.mark.parametrize("text", ["0", "-1", "two", "1000"])
def test_a_number_of_jobs_is_positive(project: Project, text: str) -> None:
    result = project.run(f"--scanproof-jobs={text}")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"*--scanproof-jobs is a positive whole number, not '{text}'*"])


def workers(store: Path) -> list[int]:
    """Processes that evaluate into this store."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().split(b"\0")
        except OSError:
            continue
        if b"scanproof.evaluation.worker.run" in words and any(word.startswith(os.fsencode(store)) for word in words):
            found.append(int(path.parent.name))
    return found


def leaders(store: Path) -> list[int]:
    """Of them those that a session started; a program that a worker starts is for a moment a second one of its name."""
    return [process for process in workers(store) if leads(process)]


def leads(process: int) -> bool:
    try:
        return os.getpgid(process) == process
    except ProcessLookupError:
        return False


def hear_interrupts() -> None:
    """A shell's background job ignores Ctrl-C, and so would all that it starts."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="looks for processes in /proc")
@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGKILL])
def test_no_worker_outlives_a_session_that_was_stopped(tmp_path: Path, sent: signal.Signals) -> None:
    store = tmp_path / "store"
    command = [
        sys.executable, "-m", "pytest", "-m", "embedded", "tests/published",
        "-k", "pythia-tiny-arc or pythia-tiny-mmlu",
        "-p", "no:cacheprovider", "--scanproof-jobs=2", f"--scanproof-store={store}",
    ]  # fmt: skip
    session = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, preexec_fn=hear_interrupts)
    try:
        assert wait_until(lambda: len(leaders(store)) == 2 or session.poll() is not None), "there were no two workers"
        assert session.poll() is None, f"the session ended with {session.returncode} before there were two workers"
        both = leaders(store)
        if sent is signal.SIGINT:
            # However long the session takes to hear it, neither comes to its end first.
            for worker in both:
                os.kill(worker, signal.SIGSTOP)
        session.send_signal(sent)
        told, _ = session.communicate(timeout=HANGS)
    finally:
        session.kill()
    assert wait_until(lambda: not workers(store)), f"of {both} there still run {workers(store)}"
    (path,) = (store / "runs").glob("*/run.json")
    run = json.loads(path.read_bytes())
    assert (run["finished"], run["records"]) == (None, [])
    if sent is signal.SIGINT:
        assert session.returncode == pytest.ExitCode.INTERRUPTED
        assert "this run is partial" in told
        assert (len(list(store.glob("failed/*"))), list(store.glob("attempts/*"))) == (2, [])
