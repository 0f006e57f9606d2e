"""A small project of published numbers, evaluated through the hook that scanproof offers for that."""

from __future__ import annotations

import gzip
import json
import os
import shutil
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from scanproof.numbers.expected.folders import copy_shared
from tests.support.evidence import PROBE_TOKENS, keep_answers
from tests.support.pytester_project import PytesterProject

EXPECTED = Path(__file__).parents[2] / "expected"

DOCUMENT = """\
number: "900"
title: A document of this test
citation: none
harness: {name: lm-eval, version: 0.4.13, relation: same, said: "lm-eval 0.4.13"}
suite: SUITE
numbers: COUNT
"""

EVALUATION = """\
document: "900"
model: org/NAME
hub_id: org/NAME
job:
  model: hf
  revision: main
  dtype: float32
  device: DEVICE
  num_fewshot: 0
  batch_size: 8
values:
  - {task: arc_easy, metric: acc, line: 3, origin: author, printed: "50.0", unit: percent}
  - {task: arc_easy, metric: acc_norm, line: 4, origin: author, printed: "0.4500", unit: fraction, stderr: "0.0102"}
  - {task: lambada_openai, metric: perplexity, line: 5, origin: author, printed: "8.14", unit: raw}
"""

HOOK = """
import json
from datetime import UTC, datetime
from pathlib import Path
import pytest
from scanproof.errors import EvaluationError
from scanproof.kernels.launches.launched import Launches
from scanproof.files import from_json
from scanproof.record import Evaluation
from evidence import ENVIRONMENT, keep_answers

HERE = Path(__file__).parent

@pytest.hookimpl
def pytest_scanproof_evaluate(config, job, settings, progress):
    with (HERE / "jobs.log").open("a") as log:
        log.write(json.dumps([job.name, list(job.tasks), job.limit, settings.fresh, str(settings.mirror)]) + "\\n")
    answers = json.loads((HERE / "answers.json").read_text())
    if isinstance(answers, dict):
        raise EvaluationError(**answers)
    wanted = {}
    for task, metric, value, documents in answers:
        if task in job.tasks:
            wanted.setdefault(task, {})[metric] = value, min(documents, job.limit or documents)
    samples = settings.store / "samples-of-the-test" / job.name
    measured = keep_answers(samples, wanted, shots=job.num_fewshot)
    return Evaluation(
        job=job, key="k" * 64, measurements=measured, samples=str(samples), command="lm_eval --model hf",
        environment=ENVIRONMENT, kernels=launches(), kernel_changes=changes(), session=settings.session,
        measured=datetime.now(UTC).isoformat(timespec="seconds"),
    )

def changes():
    path = HERE / "changes.json"
    return tuple(json.loads(path.read_text())) if path.exists() else ()

def launches():
    path = HERE / "launches.json"
    return from_json(Launches, path.read_bytes()) if path.exists() else None
"""

GOOD: list[tuple[str, str, float, int]] = [
    ("arc_easy", "acc", 0.5, 2376),
    ("arc_easy", "acc_norm", 0.4501, 2376),
    ("lambada_openai", "perplexity", 8.141, 5153),
]
MADE = {"author": "embedded", '"0.4500"': '"0.4499"', '"8.14"': '"8.1410"'}
"""What is printed of a published model -> of a stand-in: the numbers that the answers of `GOOD` make."""


@cache
def pack_answers() -> bytes:
    """The answers that `GOOD` is made of, as they are recorded with the expected values of a stand-in."""
    wanted: dict[str, dict[str, tuple[float, int]]] = {}
    for task, metric, value, documents in GOOD:
        wanted.setdefault(task, {})[metric] = value, documents
    with TemporaryDirectory() as folder:
        keep_answers(Path(folder), wanted)
        header = {"task": "", "probe_tokens": PROBE_TOKENS, "dtype": "float32"}
        rows = [header] + [
            {"task": log.stem, **json.loads(line)}
            for log in sorted(Path(folder).glob("*.jsonl"))
            for line in log.read_text().splitlines()
        ]
    return gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode(), mtime=0)


class Project(PytesterProject):
    """A pytester folder with expected values for two models, `one` and `two`."""

    def document(
        self,
        *,
        suite: str = "gpu",
        device: str = "cpu",
        models: tuple[str, ...] = ("one", "two"),
        kernels: str = "",
        numbers: int = 3,
    ) -> Path:
        """Write `expected/` with one document; returns the document's folder.

        Args:
            numbers: how many a file holds when the test has changed it.
        """
        folder = self.root / "expected" / "900-test"
        folder.mkdir(parents=True)
        copy_shared(EXPECTED, folder.parent)
        (folder / "document.yaml").write_text(
            DOCUMENT.replace("SUITE", suite).replace("COUNT", str(numbers * len(models)))
        )
        for model in models:
            text = EVALUATION.replace("NAME", model).replace("DEVICE", device)
            if kernels:
                text = text.replace("batch_size: 8", f"batch_size: 8\n  kernels: [{kernels}]")
            if suite == "embedded":
                for printed, made in MADE.items():
                    text = text.replace(printed, made)
            (folder / f"{model}.yaml").write_text(text)
            if suite == "embedded":
                (folder / f"{model}.answers.jsonl.gz").write_bytes(pack_answers())
        return folder

    def answer(self, answers: object = GOOD) -> None:
        """What every evaluation measures; `kind` and `message` make it break with that error."""
        (self.root / "answers.json").write_text(json.dumps(answers))

    def jobs(self) -> list[list[object]]:
        """Every evaluation that was asked for: name, tasks, limit, fresh, mirror."""
        log = self.root / "jobs.log"
        return [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []

    def latest_run(self) -> dict[str, object]:
        """The newest run that was recorded."""
        content: dict[str, object] = json.loads(self.newest_file.read_text())
        return content


@pytest.fixture
def project(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Project:
    """A project whose evaluations answer as expected, ready to be changed."""
    # Sessions of the tests have no say in the summary of the job that runs the tests, nor has its user in them.
    for name in [name for name in os.environ if name.startswith("SCANPROOF_")] + ["GITHUB_STEP_SUMMARY"]:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("COLUMNS", "200")
    made = Project(pytester)
    suite = Path(__file__).parents[1] / "published" / "test_published.py"
    shutil.copy(suite, made.root / "test_published.py")
    shutil.copy(Path(__file__).with_name("evidence.py"), made.root / "evidence.py")
    pytester.makeconftest(HOOK)
    pytester.makeini("[pytest]\nfilterwarnings = error\n")
    made.answer()
    return made
