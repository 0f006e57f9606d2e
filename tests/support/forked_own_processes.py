"""Own processes of a forked session as forks too: what a session imports is imported for none of them.

A session that records latencies starts seven.  Here it forks, before pytest starts, the process from which they are
forked.  Each of them is still a process of its own, in a group of its own, that begins without what the session did;
only the interpreter is not started and the imports are there.
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from typing import Any, BinaryIO

from scanproof.plugin.own_process_running import START

PID, STATUS = 4, 4
"""Bytes of what a process says once it is there, and of what is said of its end."""


def fork_own_processes() -> bool:
    """Fork the process that own processes are forked from; returns whether this one is an own process.

    It does not return in the process that forks.
    """
    ours, theirs = socket.socketpair()
    if os.fork() == 0:
        ours.close()
        return serve(theirs)
    theirs.close()

    class Popen(subprocess.Popen):  # type: ignore[type-arg]
        """Python's own, but for own processes.  Patched here, as a strict session fails where scanproof is patched."""

        def __new__(cls, args: Sequence[str], *more: object, **given: object) -> Any:
            if list(args[:3]) == [sys.executable, "-c", START]:
                return OwnProcess(ours, args, **given)  # type: ignore[arg-type]
            return super().__new__(cls)

    subprocess.Popen = Popen  # type: ignore[assignment,misc]
    return False


def serve(requests: socket.socket) -> bool:
    """Fork for each request until the session is gone; returns true in the own process, which runs on."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    while True:
        content, streams, _, _ = socket.recv_fds(requests, 1 << 20, 4)
        if not content:
            os._exit(0)
        if os.fork() == 0:
            requests.close()
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            if is_own_process(streams[3]):
                os.close(streams[3])
                begin(json.loads(content), streams[:3])
                return True
        for stream in streams:
            os.close(stream)


def is_own_process(told: int) -> bool:
    """Fork once more: true in the own process; the other one waits for it, says how it ended, and ends."""
    child = os.fork()
    if child == 0:
        os.setsid()
        os.write(told, os.getpid().to_bytes(PID, "little"))
        return True
    _, status = os.waitpid(child, 0)
    os.write(told, os.waitstatus_to_exitcode(status).to_bytes(STATUS, "little", signed=True))
    os._exit(0)


def begin(request: dict[str, Any], streams: Sequence[int]) -> None:
    """Make this process the one that was asked for, as `python -c` does."""
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["environment"])
    sys.argv = list(request["arguments"])


class OwnProcess:
    """What `scanproof.plugin.own_process_running` needs of `subprocess.Popen`."""

    def __init__(
        self, requests: socket.socket, command: Sequence[str], stdin: int, stdout: BinaryIO, stderr: BinaryIO,
        cwd: os.PathLike[str], start_new_session: bool,
    ) -> None:  # fmt: skip
        assert stdin == subprocess.PIPE
        assert start_new_session
        reading, writing = os.pipe()
        self._told, telling = os.pipe()
        request = {"folder": os.fspath(cwd), "environment": dict(os.environ), "arguments": ["-c", *command[3:]]}
        given = [reading, stdout.fileno(), stderr.fileno(), telling]
        socket.send_fds(requests, [json.dumps(request).encode()], given)
        for stream in (reading, telling):
            os.close(stream)
        self.args = command
        self.stdin = os.fdopen(writing, "wb", 0)
        self.pid = int.from_bytes(self._read(PID), "little")
        self._code: int | None = None

    def poll(self) -> int | None:
        """The exit code, once it has ended."""
        return self._look(0)

    def wait(self, timeout: float | None = None) -> int:
        """Wait until it has ended; raises subprocess.TimeoutExpired."""
        code = self._look(timeout)
        if code is None:
            assert timeout is not None
            raise subprocess.TimeoutExpired(self.args, timeout)
        return code

    def _look(self, timeout: float | None) -> int | None:
        if self._code is None and select.select([self._told], [], [], timeout)[0]:
            self._code = int.from_bytes(self._read(STATUS), "little", signed=True)
            os.close(self._told)
        return self._code

    def _read(self, count: int) -> bytes:
        """So many bytes: whoever tells them may be gone, and 0 is the group of this process, or success."""
        told = os.read(self._told, count)
        if len(told) != count:
            raise OSError("the process that forks own processes has ended")
        return told
