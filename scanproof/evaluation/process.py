"""Start a worker process, report its progress, and kill what is left of it at the end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scanproof.errors import FailureKind, describe_exit

POLL_SECONDS = 0.1


@dataclass(frozen=True)
class Progress:
    """How far a job has come."""

    stage: str
    """`waiting` (another process runs the same job), `start`, `checkpoint`, `requests`, ..."""
    done: int
    total: int
    """Requests; 0 in a stage that counts nothing."""
    seconds: float
    """Since `evaluate` was called."""


class SessionOver(BaseException):
    """The session ended before the job, by Ctrl-C or `-x`.  This is not an error of the job."""


def worker_folder() -> Path:
    """Working directory of a worker: the folder that contains the package, so that a clone needs no installation."""
    return Path(__file__).resolve().parents[2]


def supervise(
    attempt: Path,
    environment: Mapping[str, str],
    timeout: float | None,
    started: float,
    progress: Callable[[Progress], None],
    stopped: Callable[[], bool],
) -> int:
    """Run a worker that reads `attempt/job.json` and writes to `attempt/out`; returns its exit code.

    Whether this function returns or raises, it first kills every process of the worker's group.  Progress counts its
    seconds from `started`, a value of time.monotonic().

    Raises:
        subprocess.TimeoutExpired: the worker took more than `timeout` seconds.
        SessionOver: `stopped()` returned true.
    """
    out = attempt / "out"
    command = [sys.executable, "-m", "scanproof.evaluation.worker.run", str(attempt / "job.json"), str(out)]
    with (attempt / "worker.log").open("wb") as log:
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=subprocess.STDOUT,
            cwd=worker_folder(),
            env=dict(environment),
            start_new_session=True,
        )
        try:
            return _watch(process, out / "progress.jsonl", timeout, started, progress, stopped)
        finally:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            if process.stdin:
                process.stdin.close()


def _watch(
    process: subprocess.Popen[bytes],
    path: Path,
    timeout: float | None,
    started: float,
    progress: Callable[[Progress], None],
    stopped: Callable[[], bool],
) -> int:
    """Pass on the worker's progress until it ends; returns its exit code."""
    begun = time.monotonic()
    path.touch()
    with path.open() as lines:
        while True:
            code = process.poll()
            for line in lines.readlines():
                with suppress(ValueError):
                    state = json.loads(line)
                    elapsed = time.monotonic() - started
                    progress(Progress(state["stage"], state["done"], state["total"], elapsed))
            if code is not None:
                return code
            if stopped():
                raise SessionOver
            if timeout is not None and time.monotonic() - begun > timeout:
                raise subprocess.TimeoutExpired(process.args, timeout)
            with suppress(subprocess.TimeoutExpired):
                process.wait(POLL_SECONDS)


def why_failed(out: Path, code: int) -> tuple[FailureKind, str]:
    """Why a worker left no result: its own error message if it wrote one, else its exit status."""
    path = out / "error.json"
    if path.is_file():
        error = json.loads(path.read_bytes())
        return error["kind"], f"{error['message']} (stage: {error['stage']})"
    kind, message = describe_exit(code)
    return kind, f"{message}; it was at: {last_stage(out)}"


def last_stage(out: Path) -> str:
    """The stage that the worker reported last, with the number of answered requests."""
    path = out / "progress.jsonl"
    lines = path.read_text().splitlines() if path.is_file() else []
    if not lines:
        return "start, loading python and its libraries"
    try:
        state: Mapping[str, Any] = json.loads(lines[-1])
    except ValueError:
        return "unknown"
    return f"{state['stage']} {state['done']}/{state['total']}" if state["total"] else str(state["stage"])
