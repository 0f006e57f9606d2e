"""`pytester.runpytest_subprocess` in half of its CPU time: sessions forked from a process with their imports."""

from __future__ import annotations

import importlib
import json
import os
import resource
import subprocess
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import IO, Any

import pytest

SERVER = Path(__file__).with_name("session_server.py")
IMPORTED = (
    "pytest", "_pytest.*", "pytest_benchmark.plugin", "platformdirs.*", "xml.etree.ElementTree",
    "numpy", "scipy.optimize", "scipy.special", "scipy.stats", "pandas", "pyarrow.compute", "pyarrow.parquet", "fsspec",
    "pydantic", "yaml", "rich.table", "packaging.version",
    "scanproof.plugin.*", "scanproof.numbers.*", "scanproof.history.*", "scanproof.report.*", "scanproof.triage.*",
)  # fmt: skip
"""What sessions that compare published numbers import, neither torch nor lm-eval; pyarrow imports pandas by itself.

Not `xdist.plugin`: it keeps the path as it is when it is imported, for its workers."""
WITH_TORCH = (
    "torch",
    "torch.fx.experimental.symbolic_shapes",
    "scanproof.kernels.*",
    "tests.support.forked_own_processes",
)
"""What sessions that compute import besides; of torch also what it imports at the first backward pass."""
UNUSED = "-p no:hypothesispytest -p no:anyio"
"""Plugins that no session of the tests uses, and that take 0.3 s to import."""


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Load NumPy before a test that uses `pytester`, which forgets what is imported meanwhile.

    NumPy's extensions load once per process: a later test would fail that imports them again.
    """
    if "pytester" in getattr(item, "fixturenames", ()) and find_spec("numpy") is not None:
        for name in ("numpy", "numpy.fft", "numpy.linalg", "numpy.random"):
            importlib.import_module(name)


class Server:
    """The process that forks sessions; it starts with the first of them."""

    def __init__(self, *modules: str) -> None:
        self._command = [sys.executable, str(SERVER), *IMPORTED, *modules]
        self._process: subprocess.Popen[str] | None = None

    def popen(
        self,
        command: Sequence[str | os.PathLike[str]],
        stdout: IO[str],
        stderr: IO[str],
        forks_own_processes: bool = False,
        **_: object,
    ) -> Session:
        """In place of `pytester.popen`, for the command that `pytester.runpytest_subprocess` runs.

        Args:
            forks_own_processes: the session's own processes are forks too, see `forked_own_processes`.
        """
        python, pytest_module, *arguments = command
        assert (python, pytest_module) == (sys.executable, "-mpytest")
        paths = filter(None, [str(Path.cwd()), os.environ.get("PYTHONPATH", "")])
        request = {
            "folder": str(Path.cwd()),
            "environment": {**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
            "memory": resource.getrlimit(resource.RLIMIT_AS),
            "out": stdout.name,
            "err": stderr.name,
            "arguments": arguments,
            "forks_own_processes": forks_own_processes,
        }
        return Session(self, request)

    def ask(self, request: dict[str, Any]) -> int:
        """Run a session; returns its exit code, the negative number of a signal where one ended it."""
        if self._process is None:
            self._process = subprocess.Popen(self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
            if answer := self._process.stdout.readline():
                return int(answer)
            raise OSError(f"the server of sessions ended with exit code {self._process.wait()}")
        except BaseException:
            # A deadline or Ctrl-C: the next session does not get the answer of this one.
            self.close()
            raise

    def close(self) -> None:
        """End the server."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None


class Session:
    """A session that was asked for, as far as `pytester.run` needs a process."""

    stdin = None

    def __init__(self, server: Server, request: dict[str, Any]) -> None:
        self._server, self._request = server, request

    def wait(self) -> int:
        """Run it; returns its exit code."""
        return self._server.ask(self._request)


@pytest.fixture(scope="session")
def session_server() -> Iterator[Server]:
    """One for all tests of this process."""
    server = Server()
    yield server
    server.close()


@pytest.fixture(scope="session")
def torch_server() -> Iterator[Server]:
    """One for sessions that compute."""
    server = Server(*WITH_TORCH)
    yield server
    server.close()


@pytest.fixture
def pytester(pytester: pytest.Pytester, session_server: Server, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    """A pytester whose `runpytest_subprocess` forks."""
    monkeypatch.setattr(pytester, "popen", session_server.popen)
    monkeypatch.setenv("PYTEST_ADDOPTS", UNUSED)
    return pytester


@pytest.fixture
def sessions_with_torch(pytester: pytest.Pytester, torch_server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sessions of this test compute, so that torch is there already."""
    monkeypatch.setattr(pytester, "popen", torch_server.popen)


@pytest.fixture
def forked_passes(pytester: pytest.Pytester, torch_server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sessions of this test compute, and so do the processes in which they run tests on their own."""
    monkeypatch.setattr(pytester, "popen", partial(torch_server.popen, forks_own_processes=True))


@pytest.fixture
def new_interpreters(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sessions of this test start as a user's do: it asks what they import."""
    monkeypatch.setattr(pytester, "popen", partial(pytest.Pytester.popen, pytester))
    monkeypatch.delenv("PYTEST_ADDOPTS")
