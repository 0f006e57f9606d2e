"""A small project with a history, whose evaluations leave samples: nights, good and bad ones."""

from __future__ import annotations

import json
from typing import Any

import pytest

from scanproof.history import new_baseline
from scanproof.history.declarations import Declared
from scanproof.history.store import History, open_history
from tests.support.small_project import HOOK, Project

LOST = """
    lost = json.loads((HERE / "lost.json").read_text())
    for task, metrics in wanted.items():
        if task == "lambada_openai":
            metrics["acc"] = 0.5, min(5153, job.limit or 5153)
        for name, (value, documents) in metrics.items():
            if name != "perplexity":
                metrics[name] = (round(value * documents) - lost.get(task, 0)) / documents, documents
"""
ASKED = """
    for path in samples.glob("*.jsonl"):
        path.write_text(path.read_text().replace('"question_hash": "q', '"question_hash": "' + lost.get("asked", "q")))
    ENVIRONMENT["packages"]["lm-eval"] = lost.get("harness", "0.0")
"""


@pytest.fixture
def nightly(project: Project) -> Project:
    """A project whose evaluations leave samples; `lost.json` says how many documents of a task are lost."""
    kept = "    samples = settings.store"
    text = HOOK.replace(kept, LOST.lstrip("\n") + kept).replace(
        "    return Evaluation(", ASKED + "    return Evaluation("
    )
    project.pytester.makeconftest(text)
    project.document(models=("one",))
    lose(project)
    (project.root / "history").mkdir()
    return project


def lose(project: Project, **lost: Any) -> None:
    (project.root / "lost.json").write_text(json.dumps(lost))


def history(project: Project) -> History:
    return open_history(str(project.root / "history"))


def with_baseline(project: Project) -> Declared:
    """A first strict night, declared good; returns the declaration."""
    project.run("--scanproof-history=history", "--scanproof-strict").assert_outcomes(passed=3)
    kept = history(project)
    return new_baseline.declare(kept, kept.find("latest"), "the first night")
