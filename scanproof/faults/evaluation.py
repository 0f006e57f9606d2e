"""The second half of the exam: does the evaluation of a stand-in model detect a fault?

A stand-in is evaluated with the fault in its layers, and its numbers are compared with `expected/embedded` with the
suite's own tolerances.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from scanproof import embedded
from scanproof.errors import EvaluationError
from scanproof.evaluation import results
from scanproof.evaluation.request import Settings, request_for_worker
from scanproof.faults.fault import Fault
from scanproof.faults.layers import LAYERS
from scanproof.numbers.expected.reader import Expected
from scanproof.numbers.values import EvalJob, PublishedValue
from scanproof.numbers.verdict import tolerance
from scanproof.numbers.verdict.measurement import Measurement
from scanproof.numbers.verdict.outcome import Outcome

TASKS = ("arc_easy", "hellaswag", "lambada_openai")
"""Questions, endings and last words: enough to detect most faults within seconds."""
NUM_FEWSHOT = 0


class StandInError(RuntimeError):
    """A stand-in could not be evaluated; the message says why."""


@dataclass(frozen=True)
class Evaluated:
    """The result of evaluating a stand-in with a fault in it."""

    model: str
    """Name of the stand-in."""
    numbers: int
    """How many numbers were compared."""
    outside: int
    """How many of them were not reproduced."""
    error: str | None
    """The error with which the fault stopped the evaluation, so that there are no numbers; None otherwise."""
    seconds: float
    """Processor time, without loading the checkpoint."""

    @property
    def caught(self) -> bool:
        return self.outside > 0 or self.error is not None

    def __str__(self) -> str:
        result = "stops" if self.error else f"{self.outside} of {self.numbers}"
        return f"{result} ({self.model}, {self.seconds:.0f} s)"


def evaluate_faults(faults: Sequence[Fault], expected: Expected) -> dict[str, Evaluated]:
    """Evaluate stand-ins with each fault whose operation they contain; results by fault id.

    Raises:
        StandInError: the stand-ins cannot be evaluated here, or one without a fault is out of tolerance.
    """
    evaluated: dict[str, Evaluated] = {}
    for model in sorted({layer.model for layer in LAYERS.values()}):
        planted = [fault for fault in faults if fault.in_layers and fault.op in LAYERS]
        its_faults = [fault for fault in planted if LAYERS[fault.op].model == model]
        if its_faults:
            evaluated |= _evaluate_stand_in(model, its_faults, expected)
    return evaluated


def _evaluate_stand_in(model: str, faults: Sequence[Fault], expected: Expected) -> dict[str, Evaluated]:
    """Evaluate one stand-in, first without a fault and then once with each fault."""
    job, values = _make_job(model, expected)
    with tempfile.TemporaryDirectory(prefix="scanproof-exam-") as folder:
        lines = _run_worker(job, [fault.id for fault in faults], Path(folder))
    correct, *answers = (_compare_numbers(model, line, values, expected) for line in lines)
    if correct.caught:
        raise StandInError(f"{model} without any fault: {correct}; the expected values or this machine are wrong")
    return {fault.id: answer for fault, answer in zip(faults, answers, strict=True)}


def _make_job(model: str, expected: Expected) -> tuple[EvalJob, list[PublishedValue]]:
    """The job that evaluates a stand-in on TASKS, and its expected values."""
    values = [
        value
        for value in expected.values
        if value.job.suite == "embedded" and value.hub_id.endswith(f"/{model}") and value.task in TASKS
    ]
    job = next(value.job for value in values if value.job.num_fewshot == NUM_FEWSHOT)
    return replace(job, tasks=TASKS), values


def _run_worker(job: EvalJob, faults: Sequence[str], folder: Path) -> list[dict[str, Any]]:
    """Run `scanproof.faults.stand_in_worker`; returns the lines that it writes, the first one without a fault."""
    settings = Settings(store=folder, mirror=embedded.MIRROR, fresh=True, timeout=None, session="exam")
    try:
        request, environment = request_for_worker(job, settings)
    except EvaluationError as error:
        raise StandInError(error.message) from None
    request_file, answers_file = folder / "request.json", folder / "answers.jsonl"
    request_file.write_text(json.dumps({**request, "faults": list(faults)}))
    command = [sys.executable, "-m", "scanproof.faults.stand_in_worker", str(request_file), str(answers_file)]
    root = Path(__file__).resolve().parents[2]
    finished = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=False)
    if finished.returncode:
        raise StandInError(f"the evaluation of {job.pretrained} broke:\n{finished.stderr[-2000:]}")
    return [json.loads(line) for line in answers_file.read_text().splitlines()]


def _compare_numbers(
    model: str, line: Mapping[str, Any], values: Iterable[PublishedValue], expected: Expected
) -> Evaluated:
    if "error" in line:
        return Evaluated(model, 0, 0, line["error"], line["seconds"])
    measured = {
        (measurement.task, measurement.metric): measurement
        for measurement in map(results.read_measurement, line["measurements"])
    }
    verdicts = [_judge(value, measured, expected) for value in values]
    outside = sum(verdict.outcome is not Outcome.REPRODUCED for verdict in verdicts)
    return Evaluated(model, len(verdicts), outside, None, line["seconds"])


def _judge(
    value: PublishedValue, measured: Mapping[tuple[str, str], Measurement], expected: Expected
) -> tolerance.Verdict:
    measurement = measured[value.task, value.metric]
    return tolerance.compare(value, measurement.value, expected.constants, documents=measurement.n_samples)
