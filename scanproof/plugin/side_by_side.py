"""Jobs of the stand-ins run side by side, while pytest waits for the one that its next test needs."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Generic, TypeVar

from scanproof.environment import usable_cpus
from scanproof.evaluation.process import Progress
from scanproof.numbers.values import EvalJob

LOOK_EVERY_SECONDS = 0.1
AT_MOST = 4
"""Jobs at once where nobody says how many: each takes about 0.9 GB of memory."""

Show = Callable[[Progress], None]
Stopped = Callable[[], bool]
Result = TypeVar("Result")


def at_once(asked: int | None) -> int:
    """How many jobs run at the same time: what was asked for, else one per core, at most four."""
    return asked if asked is not None else min(AT_MOST, usable_cpus())


class SideBySide(Generic[Result]):
    """Runs jobs on a few threads, in the order in which tests need them; each thread waits for a worker process.

    Args:
        run: runs one job; is given where to note its progress, and asks often whether the session is over.
        jobs: all that the selected tests need and that may run beside others.
        threads: how many run at once.
    """

    def __init__(self, run: Callable[[EvalJob, Show, Stopped], Result], jobs: Sequence[EvalJob], threads: int) -> None:
        self._run = run
        self._jobs = {job.name: job for job in jobs}
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="scanproof-job")
        self._futures: dict[str, Future[Result]] = {}
        self._states: dict[str, Progress] = {}
        self._over = threading.Event()

    def __contains__(self, job: EvalJob) -> bool:
        return job.name in self._jobs

    def __call__(self, job: EvalJob, show: Show) -> Result:
        """Wait for a job and show how far it is; the first call starts them all.  Raises what its run raised."""
        if not self._futures:
            self._futures = {each.name: self._pool.submit(self._one, each) for each in self._jobs.values()}
        future, shown = self._futures[job.name], None
        while not future.done():
            wait([future], timeout=LOOK_EVERY_SECONDS)
            state = self._states.get(job.name)
            if state is not None and state is not shown:
                show(state)
                shown = state
        return future.result()

    def _one(self, job: EvalJob) -> Result:
        def note(state: Progress) -> None:
            self._states[job.name] = state

        return self._run(job, note, self._over.is_set)

    def close(self) -> None:
        """The session is over: end what runs, start nothing more; returns when no thread is left."""
        self._over.set()
        self._pool.shutdown(wait=True, cancel_futures=True)
