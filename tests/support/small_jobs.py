"""Jobs of the small mirror in real worker processes: fixtures and helpers of the tests of evaluations."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from scanproof.errors import EvaluationError
from scanproof.evaluation import process
from scanproof.evaluation.evaluate_job import evaluate
from scanproof.evaluation.process import Progress
from scanproof.numbers.values import EvalJob
from scanproof.record import Evaluation
from tests.support import small_mirror as small


@pytest.fixture(scope="session")
def mirror(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small.build(tmp_path_factory.mktemp("small") / "mirror")


@pytest.fixture(scope="session")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the store that the finished evaluation is in."""
    return tmp_path_factory.mktemp("place")


@pytest.fixture(scope="session")
def stages() -> list[Progress]:
    return []


@pytest.fixture(scope="session")
def measured(mirror: Path, place: Path, stages: list[Progress]) -> Evaluation:
    """One real run, shared by the tests that only look at it."""
    return evaluate(small.JOB, small.settings(place, mirror), progress=stages.append)


@pytest.fixture
def own(mirror: Path, tmp_path: Path) -> Path:
    """A mirror that the test may damage."""
    return small.copy_of(mirror, tmp_path / "mirror")


def values(evaluation: Evaluation) -> dict[tuple[str, str], float]:
    return {(found.task, found.metric): found.value for found in evaluation.measurements}


def lines(evaluation: Evaluation) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (Path(evaluation.samples) / "arc_easy.jsonl").read_text().splitlines()]


def fails(mirror: Path, folder: Path, job: EvalJob = small.JOB) -> EvaluationError:
    """The error of a job that cannot run."""
    with pytest.raises(EvaluationError) as caught:
        evaluate(job, small.settings(folder, mirror), progress=small.ignore)
    return caught.value


def children() -> list[int]:
    """Process ids of this process's children."""
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            text = status.read_text()
        except OSError:
            continue
        if int(text.rpartition(")")[2].split()[1]) == os.getpid():
            found.append(int(status.parent.name))
    return found


def is_running(process: int) -> bool:
    status = Path(f"/proc/{process}/stat")
    try:
        return status.read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


class Clock:
    """Time as `scanproof.evaluation.process` reads it: it passes as ever, or at once."""

    ahead = 0.0

    def monotonic(self) -> float:
        return time.monotonic() + self.ahead


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Lets a worker's time be over when the test says so, however long the machine takes to start it."""
    made = Clock()
    monkeypatch.setattr(process, "time", made)
    return made


def wait_until(condition: Callable[[], object]) -> bool:
    """False when the condition was not met before something is stuck."""
    end = time.monotonic() + small.HANGS
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.05)
    return False
