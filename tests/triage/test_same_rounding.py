"""The second gate and triage say the same of what rounding can do to a job."""

from __future__ import annotations

import gzip
import json
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest

from scanproof.history import baseline, new_baseline
from scanproof.history.publish import publish
from scanproof.history.second_gate import SecondGate
from scanproof.history.store import open_history
from scanproof.numbers.expected.reader import Expected, PublishedDocument
from scanproof.numbers.values import EvalJob, PublishedValue
from scanproof.numbers.verdict.answers import ANSWERS
from scanproof.numbers.verdict.rounding import HIGHEST_CEILING
from scanproof.record import Evaluation, read_run
from scanproof.triage import read_answers
from scanproof.triage.read_answers import Runs
from tests.support.builders import CONSTANTS, published
from tests.support.small_history import ENVIRONMENT, STRICT_JOB, make_run, rows

GOOD, NOW = "20260101T010000Z-00000001", "20260102T010000Z-00000002"
CEILING = HIGHEST_CEILING
JOB = replace(STRICT_JOB, suite="embedded", dtype="float32", device="cpu")


def evaluate(folder: Path, run: str, job: EvalJob, device: str) -> Evaluation:
    """A run of the job on this device in the store of `folder`; returns its evaluation."""
    environment = {**ENVIRONMENT, "device": device}
    path = make_run(folder / "store", run, {"piqa": rows(40, 30)}, job=job, environment=environment)
    evaluation = read_run(path).evaluations[0]
    return replace(evaluation, samples=str(path.parent / "samples" / job.name))


def expected(folder: Path, value: PublishedValue, documents: tuple[PublishedDocument, ...] = ()) -> Expected:
    return Expected(
        values=(value,), unrecorded=(), documents=documents, tasks={}, constants=CONSTANTS, folder=folder
    )  # fmt: skip


@pytest.mark.parametrize("suite", ["embedded", "gpu"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("now_on", ["cpu", "cuda:0"])
@pytest.mark.parametrize("before_on", ["cpu", "cuda:0"])
def test_a_declared_baseline(
    tmp_path: Path, suite: Literal["embedded", "gpu"], dtype: str, now_on: str, before_on: str
) -> None:
    job = replace(JOB, suite=suite, dtype=dtype)
    evaluate(tmp_path, GOOD, job, before_on)
    evaluation = evaluate(tmp_path, NOW, job, now_on)
    history = open_history(str(tmp_path / "history"))
    publish(tmp_path / "store" / "runs" / GOOD / "run.json", history.place)
    new_baseline.declare(history, history.find(GOOD), "it is good")

    declared = baseline.Baselines(history).find(evaluation)
    judged = declared.fitted_to(evaluation) if declared is not None else None
    by_history = read_answers.read_declared_baseline(history.place.name, evaluation, tmp_path / "store")
    by_store = read_answers.find_last_good(Runs(tmp_path / "store"), NOW, evaluation, job.name, ["piqa"])
    assert judged is not None
    assert by_history is not None
    assert by_store is not None
    known = (suite, dtype, now_on, before_on) == ("embedded", "float32", "cpu", "cpu")
    assert judged.ceiling == by_history.ceiling == by_store.ceiling == (CEILING if known else None)


@pytest.mark.parametrize(("dtype", "device"), [("float32", "cpu"), ("float32", "cuda:0"), ("bfloat16", "cpu")])
def test_answers_recorded_in_float64(tmp_path: Path, dtype: str, device: str) -> None:
    job = replace(JOB, dtype=dtype)
    evaluation = evaluate(tmp_path, NOW, job, device)
    value = replace(published(job=job, documents=40, printed="0.7500"), file="stand-in.yaml")
    header: dict[str, Any] = {"task": "", "probe_tokens": [1], "dtype": dtype}
    recorded = [header, *({"task": "piqa", **row} for row in rows(40, 30))]
    lines = "".join(json.dumps(row) + "\n" for row in recorded)
    (tmp_path / f"stand-in{ANSWERS}").write_bytes(gzip.compress(lines.encode()))
    document = PublishedDocument(
        number=value.document, folder=".", title="t", citation="c", urls=(), file=None, suite="embedded",
        numbers=1, harness={"version": "0.4.13"}, hardware={}, environment={}, conventions=(), assumed={}, findings=(),
    )  # fmt: skip
    given = expected(tmp_path, value, (document,))

    judged = SecondGate(given, None).baseline(value, evaluation)
    now = read_answers.read_evaluation("this run", evaluation, tmp_path, tmp_path, ["piqa"])
    side = read_answers.read_recorded_side(given, value, evaluation, now)
    assert judged is not None
    assert side is not None
    assert judged.name == side.name
    judged = judged.fitted_to(evaluation)
    assert side.environment["packages"]["lm-eval"] == "0.4.13"
    assert list(judged.samples.values()) == [answers.samples for answers in side.tasks.values()]
    assert judged.ceiling == side.ceiling == (CEILING if (dtype, device) == ("float32", "cpu") else None)
