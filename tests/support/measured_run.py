"""A strict session of a stand-in in a copy of the project, and its run judged once more."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from scanproof import files
from scanproof.history import verify
from scanproof.numbers.expected import reader
from scanproof.numbers.expected.reader import Expected
from scanproof.record import Run, find_run, read_run
from tests.support.planted import Copy, clean_copy

STRICTLY = verify.Asked(strict=True)


@dataclass(frozen=True)
class Measured:
    """A copy of the project and the store of its session."""

    copy: Copy
    store: Path

    @property
    def run(self) -> Run:
        return read_run(find_run(self.store / "runs", "latest"))

    def scanproof(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return self.copy.run([sys.executable, "-m", "scanproof", *arguments])

    def verify(
        self, *options: str, expected: Path | None = None, name: str = "latest"
    ) -> subprocess.CompletedProcess[str]:
        command = [
            sys.executable, "-m", "scanproof", "verify", name, "--store", str(self.store),
            "--expected", str(expected or self.copy.folder / "expected"), *options,
        ]  # fmt: skip
        return self.copy.run(command)


def measure(folder: Path, spoil: Callable[[Copy], None], plugin: str, metric: str) -> tuple[int, Measured]:
    """The exit code of a strict session of one stand-in's LAMBADA with a plugin, and what it left."""
    copy = clean_copy(folder)
    spoil(copy)
    (folder / "bend.py").write_text(plugin)
    ended = copy.evaluate(folder / "store", "--scanproof-strict", "-p", "bend", task=f"lambada and {metric}")
    return ended.returncode, Measured(copy, folder / "store")


def judge(measured: Measured, run: Run, expected: Expected | None = None, asked: verify.Asked = STRICTLY) -> list[str]:
    """What is said of a run as it lies in the store of a session."""
    path = find_run(measured.store / "runs", "latest")
    loaded = expected or reader.load(measured.copy.folder / "expected")
    return verify.SecondJudge(run, path, loaded, None).list_objections(asked)


def with_evaluation(own: Measured, /, **changes: Any) -> Run:
    """The run with an evaluation that is changed in its file, and beside it as well."""
    run = own.run
    (evaluation,) = run.evaluations
    other = replace(evaluation, **changes)
    place = own.store / "runs" / run.id / "evaluations" / f"{other.job.name}.json"
    place.write_bytes(files.to_json(other))
    return replace(run, evaluations=(other,))
