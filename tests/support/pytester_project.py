"""A pytester folder in which sessions of scanproof run; what small projects have in common."""

from __future__ import annotations

from pathlib import Path

import pytest


class PytesterProject:
    """A pytester folder, and the runs that its sessions recorded."""

    def __init__(self, pytester: pytest.Pytester) -> None:
        self.pytester = pytester
        self.root = pytester.path

    def run(self, *arguments: str) -> pytest.RunResult:
        """Run pytest in a process of its own, as a user does."""
        return self.pytester.runpytest_subprocess("-p", "no:cacheprovider", *arguments)

    @property
    def newest_file(self) -> Path:
        """File of the newest run, by when it was written: the names of two runs of one second say nothing."""
        return max((self.root / ".scanproof" / "runs").glob("*/run.json"), key=lambda path: path.stat().st_mtime_ns)
