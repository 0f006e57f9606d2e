"""Start a worker process, follow it, and make sure that nothing of it survives."""

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

from scanproof.errors import Kind, describe_exit

POLL_SECONDS = 0.1


@dataclass(frozen=True)
class Progress:
    """How far a job is."""

    stage: str
    """`waiting` (another process runs the same job), `start`, `checkpoint`, `requests`, ..."""
    done: int
    total: int
    """Requests; 0 when the stage counts nothing."""
    seconds: float
    """Since the call."""


class SessionOver(BaseException):
    """The session ended before a job did, by Ctrl-C or `-x`; no error of the job."""


def supervise(
    attempt: Path,
    environment: Mapping[str, str],
    timeout: float | None,
    started: float,
    progress: Callable[[Progress], None],
    stopped: Callable[[], bool],
) -> int:
    """Run a worker on `attempt/job.json`, its output in `attempt/out`; its exit code.

    Raises subprocess.TimeoutExpired after `timeout` seconds, SessionOver soon after `stopped()` is true.  However this
    function is left, no process of the worker's group survives it.  `started` is the time.monotonic() that progress
    counts its seconds from.
    """
    out = attempt / "out"
    command = [sys.executable, "-m", "scanproof.evaluation.worker.run", str(attempt / "job.json"), str(out)]
    with (attempt / "worker.log").open("wb") as log:
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=subprocess.STDOUT,
            # The folder that holds the package, so that a clone works without being installed.
            cwd=Path(__file__).resolve().parents[2],
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
    """Pass on the worker's progress until it ends; its exit code."""
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


def why_failed(out: Path, code: int) -> tuple[Kind, str]:
    """What a worker without a result died of: its own words if it could leave them, else its exit status."""
    told = out / "error.json"
    if told.is_file():
        error = json.loads(told.read_bytes())
        return error["kind"], f"{error['message']} (stage: {error['stage']})"
    kind, message = describe_exit(code)
    return kind, f"{message}; it was at: {last_stage(out)}"


def last_stage(out: Path) -> str:
    """The worker's last reported state."""
    path = out / "progress.jsonl"
    lines = path.read_text().splitlines() if path.is_file() else []
    if not lines:
        return "start, loading python and its libraries"
    try:
        state: Mapping[str, Any] = json.loads(lines[-1])
    except ValueError:
        return "unknown"
    return f"{state['stage']} {state['done']}/{state['total']}" if state["total"] else str(state["stage"])
