"""Small runs in a local store, with the samples of one or more tasks, ready to be published."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from scanproof import record
from scanproof.history.publish import publish
from scanproof.history.samples import from_lines
from scanproof.history.store import History, open_history
from scanproof.numbers.values import EvalJob
from scanproof.numbers.verdict import tolerance
from scanproof.numbers.verdict.answers import TaskSamples
from scanproof.numbers.verdict.measurement import Measurement
from scanproof.plugin import run_recorder
from scanproof.record import Evaluation, Run
from tests.support.builders import CONSTANTS, JOB, published

STRICT_JOB = replace(JOB, kernels=())
ENVIRONMENT: dict[str, Any] = {
    "python": "3.11.7",
    "packages": {"lm-eval": "0.4.13", "torch": "2.13.0"},
    "gpus": [{"name": "NVIDIA H200"}],
    "source": {"branch": "main", "commit": "c" * 40, "changed": False},
}


def line(
    doc: int, *, right: bool, lead: float = 1.0, prompt: str = "p", document: str = "d", question: str | None = None
) -> dict[str, Any]:
    """A document of a task with two answers, as a session logs it; answer 0 is the right one."""
    first = -5.0 + (lead if right else -lead)
    asked = {} if question is None else {"question_hash": f"{question}{doc}"}
    return {
        **asked,
        "doc_id": doc, "doc_hash": f"{document}{doc}", "prompt_hash": f"{prompt}{doc}", "target_hash": "t", "target": 0,
        "loglikelihoods": [first, -5.0], "is_greedy": [right, not right], "metrics": {"acc": float(right)},
    }  # fmt: skip


def task(rows: Sequence[Mapping[str, Any]], *, job: str = JOB.name, name: str = "piqa") -> TaskSamples:
    """Samples of one task."""
    return from_lines(job, name, rows)


def rows(documents: int, right: int, **changes: Any) -> list[dict[str, Any]]:
    """Documents of which the first `right` are right."""
    return [line(doc, right=doc < right, **changes) for doc in range(documents)]


def evaluation(logs: Mapping[str, Sequence[Mapping[str, Any]]], job: EvalJob, environment: Mapping[str, Any]) -> Any:
    """An evaluation whose measurements are those of its logs."""
    measurements = tuple(
        Measurement(
            task=name, metric="acc", value=sum(row["metrics"]["acc"] for row in log) / len(log), stderr=None,
            n_samples=len(log),
        )
        for name, log in logs.items()
    )  # fmt: skip
    return Evaluation(
        job=job, key="k", measurements=measurements, samples="gone", command="c", environment=dict(environment)
    )


def make_run(
    store: Path,
    name: str,
    logs: Mapping[str, Sequence[Mapping[str, Any]]] | None = None,
    *,
    job: EvalJob = STRICT_JOB,
    environment: Mapping[str, Any] = ENVIRONMENT,
    **changes: Any,
) -> Path:
    """Write a finished, strict run of one job to a local store; returns its file."""
    logs = {"piqa": rows(400, 300)} if logs is None else logs
    made = evaluation(logs, job, environment)
    values = [published(job=job, task=each, documents=None, printed="0.7500") for each in logs]
    records = []
    for value, measured in zip(values, made.measurements, strict=True):
        verdict = tolerance.compare(value, measured.value, CONSTANTS, documents=measured.n_samples)
        records.append(run_recorder.judged_record(value, f"test[{value.id}]", made, verdict))
    folder = store / "runs" / name / "samples" / job.name
    folder.mkdir(parents=True)
    for each, log in logs.items():
        (folder / f"{each}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in log))
    stamp = f"{name[:4]}-{name[4:6]}-{name[6:8]}T01:00:00+00:00"
    run = Run(
        id=name, started=stamp, finished=stamp, strict=True, limit=None, environment=dict(environment),
        records=tuple(records), selected=len(records), evaluations=(made,),
    )  # fmt: skip
    return record.write_run(store / "runs", replace(run, **changes))


def filled(tmp_path: Path, *names: str) -> History:
    """A history with a run of each name."""
    history = open_history(str(tmp_path / "history"))
    for name in names:
        publish(make_run(tmp_path / "store", name), history.place)
    return history
