"""A small project of published numbers, evaluated through the hook that scanproof offers for that."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

EXPECTED = Path(__file__).parents[2] / "expected"

DOCUMENT = """\
number: "900"
title: A document of this test
citation: none
harness: {name: lm-eval, version: 0.4.13, relation: same, said: "lm-eval 0.4.13"}
suite: SUITE
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
from pathlib import Path
import pytest
from scanproof.errors import EvaluationError
from scanproof.kernels.launches.launched import Launches
from scanproof.files import from_json
from scanproof.numbers.verdict.measurement import Measurement
from scanproof.record import Evaluation

HERE = Path(__file__).parent

@pytest.hookimpl
def pytest_scanproof_evaluate(config, job, settings, progress):
    with (HERE / "jobs.log").open("a") as log:
        log.write(json.dumps([job.name, list(job.tasks), job.limit, settings.fresh, str(settings.mirror)]) + "\\n")
    answers = json.loads((HERE / "answers.json").read_text())
    if isinstance(answers, dict):
        raise EvaluationError(**answers)
    found = [
        Measurement(task=task, metric=metric, value=value, stderr=None, n_samples=n)
        for task, metric, value, n in answers
        if task in job.tasks
    ]
    samples = settings.store / "samples-of-the-test"
    samples.mkdir(parents=True, exist_ok=True)
    (samples / "arc_easy.jsonl").write_text("{}\\n")
    return Evaluation(
        job=job, key="k" * 64, measurements=tuple(found), samples=str(samples), command="lm_eval --model hf",
        kernels=launches(), kernel_changes=changes(),
    )

def changes():
    path = HERE / "changes.json"
    return tuple(json.loads(path.read_text())) if path.exists() else ()

def launches():
    path = HERE / "launches.json"
    return from_json(Launches, path.read_bytes()) if path.exists() else None
"""

GOOD = [
    ["arc_easy", "acc", 0.5, 2376],
    ["arc_easy", "acc_norm", 0.4501, 2376],
    ["lambada_openai", "perplexity", 8.141, 5153],
]


class Project:
    """A pytester folder with expected values for two models, `one` and `two`."""

    def __init__(self, pytester: pytest.Pytester) -> None:
        self.pytester = pytester
        self.root = pytester.path

    def document(
        self, *, suite: str = "gpu", device: str = "cpu", models: tuple[str, ...] = ("one", "two"), kernels: str = ""
    ) -> Path:
        """Write `expected/` with one document; returns the document's folder."""
        folder = self.root / "expected" / "900-test"
        folder.mkdir(parents=True)
        for name in ("tolerance.yaml", "tasks.yaml"):
            shutil.copy(EXPECTED / name, folder.parent / name)
        (folder / "document.yaml").write_text(DOCUMENT.replace("SUITE", suite))
        for model in models:
            text = EVALUATION.replace("NAME", model).replace("DEVICE", device)
            if kernels:
                text = text.replace("batch_size: 8", f"batch_size: 8\n  kernels: [{kernels}]")
            (folder / f"{model}.yaml").write_text(text.replace("author", "embedded") if suite == "embedded" else text)
        return folder

    def answer(self, answers: object = GOOD) -> None:
        """What every evaluation measures; `kind` and `message` make it break with that error."""
        (self.root / "answers.json").write_text(json.dumps(answers))

    def jobs(self) -> list[list[object]]:
        """Every evaluation that was asked for: name, tasks, limit, fresh, mirror."""
        log = self.root / "jobs.log"
        return [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []

    def run(self, *arguments: str) -> pytest.RunResult:
        """Run pytest in a process of its own, as a user does."""
        return self.pytester.runpytest_subprocess("-p", "no:cacheprovider", *arguments)

    def latest_run(self) -> dict[str, object]:
        """The newest run that was recorded."""
        # By when it was written: the names of two runs of one second say nothing.
        newest = max((self.root / ".scanproof" / "runs").glob("*/run.json"), key=lambda path: path.stat().st_mtime_ns)
        content: dict[str, object] = json.loads(newest.read_text())
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
    pytester.makeconftest(HOOK)
    pytester.makeini("[pytest]\nfilterwarnings = error\n")
    made.answer()
    return made
