"""The questions of `benchmarks/history.py`, one per call: `python benchmarks/history_questions.py FOLDER QUESTION`."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from scanproof.history import queries
from scanproof.history.store import History, Published, open_history

NUMBER = "mamba2inllama_0_50-hellaswag-acc_norm-author"
JOB, TASK = "000-mamba2inllama_0_50-0shot", ("hellaswag", "acc_norm")

Question = Callable[[History, list[Published]], int]


def questions() -> Iterator[tuple[str, Question]]:
    """What the page asks; each returns how many rows it got."""
    yield "runs of one branch and GPU", lambda h, runs: len(queries.select(runs, gpu="H200", branch="main"))
    yield "the last run's verdicts", lambda h, runs: len(queries.verdicts(h, runs[-1]))
    yield "trend of one number", lambda h, runs: len(queries.trend(h, runs, NUMBER))
    yield "documents that flipped between two runs", flipped
    yield "latencies of all kernel cases", lambda h, runs: len(queries.latency_trend(h, runs))
    yield "drift of every number and model", lambda h, runs: drifts(h) + len(runs)


def flipped(history: History, runs: list[Published]) -> int:
    task, metric = TASK
    return len(queries.flipped(history, runs[-2], runs[-1], JOB, task, metric))


def drifts(history: History) -> int:
    """How many drifts were found; the nights of the benchmark are clean."""
    from scanproof.history import nights
    from scanproof.numbers.expected.constants import load_constants

    return len(nights.drifts(history, load_constants(Path(__file__).parents[1] / "expected" / "tolerance.yaml")).rows)


def main() -> None:
    """Ask one question on two cores, print how many rows came, the peak of memory in bytes, and seconds of computing.

    Without arguments, print the questions.
    """
    if len(sys.argv) == 1:
        print("\n".join(name for name, _ in questions()))
        return
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:2])
    history = open_history(sys.argv[1])
    rows = dict(questions())[sys.argv[2]](history, history.runs())
    assert rows > 0, "no answer"
    assert not history.problems, history.problems[:3]
    print(rows, peak_bytes(), time.process_time())


def peak_bytes() -> int:
    """Peak resident memory since this program began; getrusage would count that of the process that started it."""
    status = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM"))


if __name__ == "__main__":
    main()
