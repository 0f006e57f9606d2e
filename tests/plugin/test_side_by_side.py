"""Jobs on threads: their order, how many at once, how they end."""

from __future__ import annotations

import os
import threading
from dataclasses import replace

import pytest

from scanproof.evaluation.process import Progress
from scanproof.numbers.values import EvalJob
from scanproof.plugin import side_by_side as side_by_side_module
from scanproof.plugin.side_by_side import Show, SideBySide, Stopped
from tests.support.builders import JOB

JOBS = [replace(JOB, name=f"job{number}") for number in range(6)]
SECONDS = 30
"""After which something is stuck."""


def ignore(_: Progress) -> None:
    pass


def test_jobs_start_in_the_order_of_their_tests_and_never_more_than_asked_for() -> None:
    started: list[str] = []
    running, most = [0], [0]
    guard = threading.Lock()
    both = threading.Barrier(2)

    def run(job: EvalJob, show: Show, stopped: Stopped) -> str:
        with guard:
            started.append(job.name)
            running[0] += 1
            most[0] = max(most[0], running[0])
        # Neither of two comes past here without the other.
        both.wait(SECONDS)
        with guard:
            running[0] -= 1
        both.wait(SECONDS)
        return f"measured {job.name}"

    side_by_side = SideBySide(run, JOBS, threads=2)
    assert started == []
    assert [side_by_side(job, ignore) for job in JOBS] == [f"measured {job.name}" for job in JOBS]
    side_by_side.close()
    assert [set(started[at : at + 2]) for at in (0, 2, 4)] == [{"job0", "job1"}, {"job2", "job3"}, {"job4", "job5"}]
    assert most == [2]


def test_what_breaks_breaks_one_job() -> None:
    def run(job: EvalJob, show: Show, stopped: Stopped) -> str:
        if job is JOBS[0]:
            raise OSError("no space left")
        return job.name

    side_by_side = SideBySide(run, JOBS[:2], threads=2)
    with pytest.raises(OSError, match="no space left"):
        side_by_side(JOBS[0], ignore)
    assert side_by_side(JOBS[1], ignore) == "job1"
    side_by_side.close()


def test_progress_is_that_of_the_job_that_is_waited_for_and_shown_on_the_thread_that_waits() -> None:
    other_told = threading.Event()
    seen: list[tuple[str, int]] = []
    shown = threading.Event()

    def run(job: EvalJob, show: Show, stopped: Stopped) -> str:
        if job is JOBS[0]:
            other_told.wait(SECONDS)
            show(Progress("checkpoint", 0, 0, 1.0))
            shown.wait(SECONDS)
        else:
            show(Progress("tasks", 0, 0, 1.0))
            other_told.set()
        return job.name

    def show(state: Progress) -> None:
        seen.append((state.stage, threading.get_ident()))
        shown.set()

    side_by_side = SideBySide(run, JOBS[:2], threads=2)
    side_by_side(JOBS[0], show)
    side_by_side.close()
    assert seen == [("checkpoint", threading.get_ident())]


def test_close_ends_what_runs_and_starts_nothing_more() -> None:
    started: list[str] = []
    told = threading.Event()

    def run(job: EvalJob, show: Show, stopped: Stopped) -> str:
        started.append(job.name)
        if job is JOBS[0]:
            return job.name
        told.set()
        while not stopped():
            threading.Event().wait(0.01)
        raise KeyboardInterrupt

    before = threading.active_count()
    side_by_side = SideBySide(run, JOBS, threads=1)
    side_by_side(JOBS[0], ignore)
    assert told.wait(SECONDS)
    side_by_side.close()
    assert started == ["job0", "job1"]
    assert threading.active_count() == before


@pytest.mark.parametrize(("asked", "cores", "threads"), [(None, 2, 2), (None, 64, 4), (None, 1, 1), (7, 2, 7)])
def test_one_job_per_core_and_at_most_four_unless_asked_for(
    monkeypatch: pytest.MonkeyPatch, asked: int | None, cores: int, threads: int
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cores)), raising=False)
    assert side_by_side_module.at_once(asked) == threads
