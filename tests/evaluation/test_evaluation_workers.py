"""Workers that die, hang or outlive their parent, and workers that need the same job or GPU."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from scanproof.errors import EvaluationError
from scanproof.evaluation.evaluate_job import evaluate
from scanproof.evaluation.process import Progress
from scanproof.record import Evaluation
from tests.support import small_mirror as small
from tests.support.small_jobs import Clock, children, is_running, values, wait_until

ROOT = Path(__file__).resolve().parents[2]


class TestWorkerThatDies:
    def test_killed_worker_is_an_error_and_the_next_call_succeeds(
        self, measured: Evaluation, mirror: Path, tmp_path: Path
    ) -> None:
        def kill(state: Progress) -> None:
            if state.stage == "checkpoint":
                for process in children():
                    os.kill(process, signal.SIGKILL)

        settings = small.settings(tmp_path, mirror)
        with pytest.raises(EvaluationError, match="killed by SIGKILL") as caught:
            evaluate(small.JOB, settings, progress=kill)
        assert caught.value.kind == "killed"
        assert "out-of-memory" in caught.value.message
        again = evaluate(small.JOB, settings, progress=small.ignore)
        assert again.measurements == measured.measurements

    def test_timeout_leaves_no_process_behind(self, mirror: Path, tmp_path: Path, clock: Clock) -> None:
        seen: list[int] = []

        def look(_: Progress) -> None:
            seen.extend(children())
            clock.ahead = small.HANGS

        with pytest.raises(EvaluationError) as caught:
            evaluate(small.JOB, small.settings(tmp_path, mirror), progress=look)
        assert caught.value.kind == "timeout"
        assert seen
        assert not any(is_running(process) for process in seen)

    def test_worker_ends_when_the_process_that_started_it_is_killed(self, mirror: Path, tmp_path: Path) -> None:
        log = tmp_path / "progress"
        with start_elsewhere(mirror, tmp_path) as parent:
            try:
                assert wait_until(lambda: log.exists() and log.read_text().strip()), "no worker was started"
                worker = int(log.read_text().split()[0])
                assert is_running(worker)
            finally:
                parent.kill()
        assert wait_until(lambda: not is_running(worker)), "the worker outlived its parent"

    def test_two_processes_run_a_job_once(self, measured: Evaluation, mirror: Path, tmp_path: Path) -> None:
        both = [start_elsewhere(mirror, tmp_path) for _ in range(2)]
        told = [process.communicate(timeout=small.HANGS)[0].decode().split() for process in both]
        assert sorted(reused for reused, _ in told) == ["False", "True"]
        assert {float(value) for _, value in told} == {values(measured)["arc_easy", "acc"]}


PARENT = """
import sys
from pathlib import Path
sys.path[:0] = [sys.argv[1], str(Path(sys.argv[1]).parents[1])]
from tests.support import small_mirror as small
from tests.support import small_jobs as tests
def tell(state):
    with open(Path(sys.argv[3]) / "progress", "a") as file:
        print(*tests.children(), file=file)
done = small.evaluate(small.JOB, small.settings(Path(sys.argv[3]), Path(sys.argv[2])), progress=tell)
print(done.reused, tests.values(done)["arc_easy", "acc"])
"""


def start_elsewhere(mirror: Path, folder: Path) -> subprocess.Popen[bytes]:
    """Evaluate in another process, which prints whether the result was reused, and the accuracy."""
    here = str(Path(__file__).parent)
    return subprocess.Popen(
        [sys.executable, "-c", PARENT, here, str(mirror), str(folder)], cwd=ROOT, stdout=subprocess.PIPE
    )


class TestOneGpu:
    def test_jobs_on_one_gpu_wait_for_each_other(self, mirror: Path, tmp_path: Path, clock: Clock) -> None:
        """When the second job reports that it waits, the first job's session ends, and its worker is stopped."""

        class Waited(Exception):
            pass

        def second_job(state: Progress) -> None:
            if state.stage == "waiting":
                raise Waited

        def during_the_first(state: Progress) -> None:
            if state.stage == "start":
                job = replace(small.JOB, device="cuda", num_fewshot=1)
                with pytest.raises(Waited):
                    evaluate(job, small.settings(tmp_path, mirror), progress=second_job)
                clock.ahead = small.HANGS

        job = replace(small.JOB, device="cuda")
        with pytest.raises(EvaluationError, match=f"no result after {small.HANGS:g} s"):
            evaluate(job, small.settings(tmp_path, mirror), progress=during_the_first)
