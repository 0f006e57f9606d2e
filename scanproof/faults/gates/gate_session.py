"""One session of the exam: a folder with data of its own, pytest in a process of its own, and what its run says."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import pytest
import yaml

from scanproof import embedded, record
from scanproof.faults.gates.endings import NOTHING_SELECTED, SESSION_FAILS, USAGE_ERROR, Complaint
from scanproof.faults.gates.gate_fault import CONFTEST, MARK, PACKAGES, FolderChange, NotPlantedError
from scanproof.faults.gates.warm_workers import write_launcher
from scanproof.numbers.expected.folders import DOCUMENT_FILE, copy_shared
from scanproof.numbers.verdict.outcome import Outcome, meaning_of

MODEL = "mamba1-tiny"
"""The stand-in that is evaluated."""
JOB = f"expected/embedded/{MODEL}.yaml"
"""File of its expected values, and of the job that measures them."""
WITHOUT_HYPOTHESIS = ("-p", "no:hypothesispytest")
"""Its plugin takes a third of the time of a session that reuses its evaluation."""
NOT_PLANTED = 1000
"""In place of an exit code, which is below 256: there was no session."""
TEST = '''"""As the suite: one test for every number."""


def test_published(scanproof_value, scanproof_check):
    scanproof_check(scanproof_value)
'''
MIRROR_HERE = '''"""The session's own stand-ins and datasets."""

from pathlib import Path

import pytest

from scanproof.plugin import options

options.EMBEDDED_MIRROR = Path(__file__).parent / "mirror"
'''
ON_PATH = Path(__file__).parent / "on_path"
"""Folder whose `sitecustomize.py` plants the fault that the exam asks for into a process that evaluates.

It is the same folder for all sessions, as where a module was found is a part of an evaluation's identity.
"""
LAUNCHED = """

import sys

sys.executable = str(Path(__file__).parent / "python")
"""
"""Lets a session start its workers through the launcher (`warm_workers`)."""


@dataclass(frozen=True, kw_only=True)
class SessionResult:
    """How a session ended."""

    exit_code: int
    numbers: tuple[Complaint, ...] = ()
    """What each number that has a record ended in, and why."""
    said: str
    """The line of its output that says how it ended as a whole."""
    measured: int = 0
    """Evaluations that were made in this session."""
    reused: int = 0
    """Evaluations that were not."""
    recorded: bool = True
    """Whether the session left a run, or changed which run is the latest."""
    seconds: float = 0.0
    """Processor time of pytest and of the processes that it starts; a worker that is a fork (`warm_workers`) is not."""
    output: str = ""
    """All that pytest printed."""

    @classmethod
    def of_nothing(cls, because: str) -> SessionResult:
        """No session: its fault could not be planted."""
        return cls(exit_code=NOT_PLANTED, said=because, output=because)

    @property
    def outcomes(self) -> Mapping[str, int]:
        """How many numbers ended in each outcome."""
        return Counter(number.ending for number in self.numbers)

    @property
    def complaints(self) -> tuple[Complaint, ...]:
        """What the session failed by; empty where it passed, or broke in a way that is nobody's verdict."""
        if self.exit_code == pytest.ExitCode.TESTS_FAILED:
            bad = tuple(number for number in self.numbers if meaning_of(number.ending).is_bad)
            return bad or (Complaint(SESSION_FAILS, self.said),)
        refused = {pytest.ExitCode.USAGE_ERROR: USAGE_ERROR, pytest.ExitCode.NO_TESTS_COLLECTED: NOTHING_SELECTED}
        if self.exit_code in refused and not self.recorded:
            return (Complaint(refused[pytest.ExitCode(self.exit_code)], self.said),)
        return ()

    @property
    def passed(self) -> bool:
        """Whether it compared something, and all of it is reproduced."""
        return self.exit_code == pytest.ExitCode.OK and set(self.outcomes) == {Outcome.REPRODUCED}

    @property
    def reason(self) -> str:
        """Why it failed."""
        return self.complaints[0].reason if self.complaints else self.said

    def __str__(self) -> str:
        if self.exit_code == NOT_PLANTED:
            return "not planted"
        counts = [f"{count} {name}" for name, count in sorted(self.outcomes.items())]
        whole = [complaint.ending for complaint in self.complaints if complaint not in self.numbers]
        broken = [] if self.complaints or self.passed else [f"exit code {self.exit_code}"]
        return ", ".join([*whole, *broken, *counts])


def make_folder(folder: Path, expected: Path) -> None:
    """Make a session's folder: the stand-in and its data, its expected values, the suite's test.

    Args:
        folder: a folder that does not exist yet.
        expected: folder of all expected values.
    """
    folder.mkdir(parents=True)
    (folder / "test_published.py").write_text(TEST)
    (folder / CONFTEST).write_text(MIRROR_HERE)
    (folder / "pytest.ini").write_text("[pytest]\n")
    copy_shared(expected, folder / "expected")
    for path in (expected / "embedded" / DOCUMENT_FILE, *(expected / "embedded").glob(f"{MODEL}.*")):
        copy_file(path, folder / "expected" / "embedded" / path.name)
    count = len(yaml.safe_load((folder / JOB).read_text(encoding="utf-8"))["values"])
    document = folder / "expected" / "embedded" / "document.yaml"
    text = document.read_text(encoding="utf-8")
    document.write_text(re.sub(r"(?m)^numbers: \d+$", f"numbers: {count}", text), encoding="utf-8")
    stand_ins = embedded.MIRROR / "scanproof"
    for path in (*embedded.MIRROR.iterdir(), stand_ins / MODEL):
        if path != stand_ins:
            shutil.copytree(path, folder / "mirror" / path.relative_to(embedded.MIRROR))


def copy_file(source: Path, target: Path) -> None:
    """Copy a file and make the folder that it goes to."""
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy2(source, target)


def start_workers_by(folder: Path, server: Path) -> None:
    """Let the session in a folder start its workers as forks of a server (`warm_workers`)."""
    write_launcher(folder / "python", server)
    with (folder / CONFTEST).open("a") as file:
        file.write(LAUNCHED)


def apply_changes(changes: Sequence[FolderChange], folder: Path) -> dict[str, str]:
    """Change a session's folder; returns the variables that the changes need.  Raises NotPlantedError."""
    variables: dict[str, str] = {}
    for change in changes:
        try:
            change.apply(folder, variables)
        except (LookupError, OSError, TypeError, ValueError) as error:
            raise NotPlantedError(f"{change}: {type(error).__name__}: {error}") from error
    return variables


def run_session(folder: Path, numbers: str, options: Sequence[str], variables: Mapping[str, str]) -> SessionResult:
    """Run pytest in a session's folder, on those of the stand-in's numbers that `-k` selects.

    Raises NotPlantedError where a worker ran and did not plant its fault.
    """
    runs = folder / "store" / "runs"
    before, latest = set(runs.glob(f"*/{record.RUN_FILE}")), find_latest(runs)
    command = [
        sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *WITHOUT_HYPOTHESIS, "-k", numbers,
        "test_published.py", "--scanproof-expected=expected", "--scanproof-store=store", "--scanproof-jobs=1", *options,
    ]  # fmt: skip
    log = folder / "pytest.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            cwd=folder,
            env=make_environment(folder, variables),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            seconds = wait(process)
        finally:
            if process.returncode is None:
                os.killpg(process.pid, signal.SIGKILL)
    mark = variables.get(MARK)
    text = log.read_text(errors="replace")
    if mark is not None and not Path(mark).exists():
        raise NotPlantedError(f"no worker planted it; pytest said:\n{text[-2000:]}")
    new = sorted(set(runs.glob(f"*/{record.RUN_FILE}")) - before)
    run = record.read_run(new[-1]) if new else None
    return SessionResult(
        exit_code=process.returncode,
        numbers=tuple(Complaint(kept.outcome, kept.because.replace(f"{folder}/", "")) for kept in run.records)
        if run
        else (),
        said=find_reason(text).replace(f"{folder}/", ""),
        measured=count_evaluations(run, reused=False),
        reused=count_evaluations(run, reused=True),
        recorded=bool(new) or find_latest(runs) != latest,
        seconds=seconds,
        output=text,
    )


def count_evaluations(run: record.Run | None, *, reused: bool) -> int:
    """How many evaluations of a run were reused, or were not."""
    return sum(evaluation.reused is reused for evaluation in run.evaluations) if run else 0


def find_latest(runs: Path) -> Path | None:
    """The file of the run that is called `latest`; None where there is none."""
    try:
        return record.find_run(runs, "latest")
    except record.RecordError:
        return None


def wait(process: subprocess.Popen[bytes]) -> float:
    """Wait for a process; returns the processor seconds of it and of those that it waited for."""
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    return usage.ru_utime + usage.ru_stime


def make_environment(folder: Path, variables: Mapping[str, str]) -> dict[str, str]:
    """The variables of a session: those of this process without what sets pytest or scanproof."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("SCANPROOF_", "PYTEST_")) and name != "GITHUB_STEP_SUMMARY"
    }
    root = Path(__file__).resolve().parents[3]
    packages = str(folder / PACKAGES) if (folder / PACKAGES).is_dir() else None
    path = os.pathsep.join(filter(None, (packages, str(ON_PATH), str(root), kept.get("PYTHONPATH"))))
    return {**kept, "OMP_NUM_THREADS": "1", "COLUMNS": "200", **variables, "PYTHONPATH": path}


def find_reason(text: str) -> str:
    """The line of pytest's output that says why a session failed as a whole, else the last one without its seconds."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if not lines:
        return "pytest printed nothing"
    for line, following in pairwise([*lines, ""]):
        if line.startswith(("ERROR: ", "not green")):
            return f"{line} {following}" if line.endswith(":") else line
    return re.sub(r" in [0-9.]+s.*", "", lines[-1])
