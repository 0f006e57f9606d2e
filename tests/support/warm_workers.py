"""Workers of this process's evaluations as forks of one that has loaded torch and lm-eval.

Loading them takes most of a small evaluation.  What a worker is given, reads and writes is the same; a test that
is about what a worker imports or how it ends starts real ones.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from scanproof.faults.gates.warm_workers import serve_workers, write_launcher
from tests.support.code_workers import serve_copies


@pytest.fixture(scope="session")
def worker_launcher(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The program that stands in for Python; one server for all tests of this process."""
    folder = tmp_path_factory.mktemp("workers")
    with serve_workers(folder, os.environ) as server:
        write_launcher(folder / "python", server)
        yield folder / "python"


@pytest.fixture
def warm_workers(worker_launcher: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers of this test are such forks."""
    monkeypatch.setattr(sys, "executable", str(worker_launcher))


@pytest.fixture(scope="session")
def copy_launcher(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The program that stands in for Python where a copy of the project is run; one for all tests of this process."""
    with serve_copies(tmp_path_factory.mktemp("copies")) as launcher:
        yield launcher


@pytest.fixture
def warm_copies(copy_launcher: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sessions that this test starts, of a copy of the project, are such forks, and so are their workers."""
    monkeypatch.setattr(sys, "executable", str(copy_launcher))
