"""Starts the workers of the exam's sessions as forks of one process that has loaded torch and lm-eval already.

Loading them takes four fifths of a small evaluation.  `python -m scanproof.faults.gates.warm_workers SOCKET` serves; a
session's `sys.executable` is a launcher (`write_launcher`) that hands a worker's arguments, variables and standard
streams over and ends with its exit code.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from scanproof.evaluation.request import OFFLINE, REPEATABLE
from scanproof.faults.gates.gate_fault import MARK, PLANTED

SERVER = "scanproof.faults.gates.warm_workers"
WORKER = "scanproof.evaluation.worker.run"
BROKEN = 70
"""Exit code where a fork died without one."""
LAUNCHER = """\
#!{python} -S
import json
import os
import socket
import sys

option, name = [*sys.argv[1:3], "", ""][:2]
place = {servers!r}.get(name) if option == "-m" else None
if place is None:
    os.execv({python!r}, [{python!r}, *sys.argv[1:]])
request = dict(module=name, arguments=sys.argv[3:], folder=os.getcwd(), variables=dict(os.environ), python=sys.argv[0])
with socket.socket(socket.AF_UNIX) as server:
    server.connect(place)
    socket.send_fds(server, [json.dumps(request).encode() + b"\\n"], [0, 1, 2])
    code = int(server.makefile().readline() or {broken})
if code < 0:
    os.kill(os.getpid(), -code)
sys.exit(code)
"""
SECONDS = 600.0
"""Longest time that the server may take to begin."""


@contextmanager
def serve_workers(
    folder: Path, variables: Mapping[str, str], server_module: Sequence[str] = (SERVER,)
) -> Iterator[Path]:
    """Run the server while the block runs; yields the path of its socket.

    Args:
        folder: a folder of this server alone.
        server_module: the module that serves, and arguments in front of the path of its socket.

    Raises OSError where it does not begin.
    """
    path = folder / "workers.socket"
    with (folder / "workers.log").open("wb") as log:
        command = [sys.executable, "-m", *server_module, str(path)]
        environment = {**variables, **REPEATABLE, **OFFLINE}
        server = subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=log, stderr=log)
        try:
            started = time.monotonic()
            while not path.exists():
                if server.poll() is not None or time.monotonic() - started > SECONDS:
                    raise OSError(f"no workers can be started:\n{(folder / 'workers.log').read_text()[-2000:]}")
                time.sleep(0.1)
            yield path
        finally:
            server.kill()
            server.communicate()


def write_launcher(place: Path, server: Path, more: Mapping[str, Path] | None = None) -> None:
    """Write the program that a session starts in place of Python.

    Args:
        place: the file to write.
        server: the socket of the server of workers.
        more: the servers of other modules that are started by `python -m`.
    """
    servers = {name: str(path) for name, path in {WORKER: server, **(more or {})}.items()}
    text = LAUNCHER.format(python=sys.executable, servers=servers, broken=BROKEN)
    place.write_text(text)
    place.chmod(0o755)


def load_packages() -> None:
    """Import what every worker imports."""
    import datasets
    import lm_eval.evaluator
    import lm_eval.models.huggingface
    import lm_eval.tasks
    import torch
    import transformers

    import scanproof.evaluation.worker.run
    import scanproof.models
    import scanproof.scoring

    del datasets, lm_eval, scanproof, torch, transformers


def end_with_exam() -> None:
    """End this process when its standard input closes: the exam that started it is gone."""

    def watch() -> None:
        while os.read(0, 1):
            continue
        os._exit(0)

    threading.Thread(target=watch, name="end-with-exam", daemon=True).start()


def serve(path: str) -> tuple[dict[str, Any], list[int], socket.socket]:
    """Fork once for each launcher that connects; returns in the fork alone.

    Returns:
        The request, the standard streams, and the connection that the exit code goes to.
    """
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"{path}.new")
        listener.listen(64)
        Path(f"{path}.new").rename(path)
        while True:
            connection, _ = listener.accept()
            # A launcher that was killed meanwhile breaks its own connection only.
            with connection, suppress(OSError):
                content, streams = receive(connection)
                answer = connection.dup()
                if content and os.fork() == 0:
                    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                    return json.loads(content), streams, answer
                answer.close()
                for stream in streams:
                    os.close(stream)


def receive(connection: socket.socket) -> tuple[bytes, list[int]]:
    """A line of JSON and three open files; empty where the launcher is gone."""
    content, streams, _, _ = socket.recv_fds(connection, 1 << 20, 3)
    while content and not content.endswith(b"\n"):
        more = connection.recv(1 << 20)
        if not more:
            return b"", list(streams)
        content += more
    return content, list(streams)


def become(request: Mapping[str, Any], streams: list[int]) -> None:
    """Make this process the one that was asked for: its group, streams, variables and folder."""
    os.setsid()
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    os.environ.clear()
    os.environ.update(request["variables"])
    os.chdir(request["folder"])


def work(request: Mapping[str, Any], streams: list[int], connection: socket.socket) -> None:
    """Be the worker of a request; does not return."""
    status = BROKEN
    try:
        become(request, streams)
        status = run_worker(request["arguments"])
    finally:
        with suppress(OSError, ValueError):
            sys.stdout.flush()
            sys.stderr.flush()
            connection.sendall(f"{status}\n".encode())
        os._exit(status)


def run_worker(arguments: list[str]) -> int:
    """Plant the session's fault and evaluate; returns the exit code."""
    import datasets.config

    from scanproof.evaluation.worker import run
    from scanproof.faults.gates import in_worker

    # Read when `datasets` was imported.
    datasets.config.HF_DATASETS_CACHE = Path(os.environ["HF_DATASETS_CACHE"])
    if os.environ.get(MARK):
        in_worker.plant(os.environ[PLANTED], os.environ[MARK])
    run.end_with_parent()
    return run.main(arguments)


if __name__ == "__main__":
    end_with_exam()
    load_packages()
    work(*serve(sys.argv[1]))
