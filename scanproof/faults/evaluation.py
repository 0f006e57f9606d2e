"""The second half of the exam: does the embedded evaluation see a fault?

A stand-in is evaluated with the fault in its layers, and its numbers are compared with `expected/embedded` by the
tolerance of the suite.
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
"""Knowledge, endings and last words: enough to see most faults, in seconds."""
NUM_FEWSHOT = 0


class StandInError(RuntimeError):
    """The stand-ins could not be evaluated; the message says why."""


@dataclass(frozen=True)
class Evaluated:
    """A stand-in evaluated with a fault in it."""

    model: str
    numbers: int
    outside: int
    """How many of them are out of tolerance, or no numbers."""
    error: str | None
    """Why there are no numbers: the fault stops the evaluation."""
    seconds: float
    """Of processor time, without loading the checkpoint."""

    @property
    def caught(self) -> bool:
        return self.outside > 0 or self.error is not None

    def __str__(self) -> str:
        found = "stops" if self.error else f"{self.outside} of {self.numbers}"
        return f"{found} ({self.model}, {self.seconds:.0f} s)"


def evaluate_faults(faults: Sequence[Fault], expected: Expected) -> dict[str, Evaluated]:
    """Fault id -> what the evaluation says, for those faults whose operation the stand-ins have.

    Raises:
        SittingError: the stand-ins cannot be evaluated here, or a correct one is out of tolerance.
    """
    found: dict[str, Evaluated] = {}
    for model in sorted({layer.model for layer in LAYERS.values()}):
        mine = [fault for fault in faults if fault.op in LAYERS and LAYERS[fault.op].model == model]
        if mine:
            found |= _sitting(model, mine, expected)
    return found


def _sitting(model: str, faults: Sequence[Fault], expected: Expected) -> dict[str, Evaluated]:
    """One stand-in, once without a fault and once with each."""
    job, values = _job(model, expected)
    with tempfile.TemporaryDirectory(prefix="scanproof-exam-") as folder:
        lines = _run(job, [fault.id for fault in faults], Path(folder))
    correct, *answers = (_evaluated(model, line, values, expected) for line in lines)
    if correct.caught:
        raise StandInError(f"{model} without any fault: {correct}; the expected values or this machine are wrong")
    return {fault.id: answer for fault, answer in zip(faults, answers, strict=True)}


def _job(model: str, expected: Expected) -> tuple[EvalJob, list[PublishedValue]]:
    values = [
        value
        for value in expected.values
        if value.job.suite == "embedded" and value.hub_id.endswith(f"/{model}") and value.task in TASKS
    ]
    job = next(value.job for value in values if value.job.num_fewshot == NUM_FEWSHOT)
    return replace(job, tasks=TASKS), values


def _run(job: EvalJob, faults: Sequence[str], folder: Path) -> list[dict[str, Any]]:
    """The lines that `scanproof.faults.stand_in_worker` writes."""
    settings = Settings(store=folder, mirror=embedded.MIRROR, fresh=True, timeout=None, session="exam")
    try:
        request, environment = request_for_worker(job, settings)
    except EvaluationError as error:
        raise StandInError(error.message) from None
    asked, answered = folder / "request.json", folder / "answers.jsonl"
    asked.write_text(json.dumps({**request, "faults": list(faults)}))
    command = [sys.executable, "-m", "scanproof.faults.stand_in_worker", str(asked), str(answered)]
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise StandInError(f"the evaluation of {job.pretrained} broke:\n{done.stderr[-2000:]}")
    return [json.loads(line) for line in answered.read_text().splitlines()]


def _evaluated(model: str, line: Mapping[str, Any], values: Iterable[PublishedValue], expected: Expected) -> Evaluated:
    if "error" in line:
        return Evaluated(model, 0, 0, line["error"], line["seconds"])
    measured = {(each.task, each.metric): each for each in map(results.read_measurement, line["measurements"])}
    verdicts = [_verdict(value, measured, expected) for value in values]
    outside = sum(each.outcome is not Outcome.REPRODUCED for each in verdicts)
    return Evaluated(model, len(verdicts), outside, None, line["seconds"])


def _verdict(
    value: PublishedValue, measured: Mapping[tuple[str, str], Measurement], expected: Expected
) -> tolerance.Verdict:
    found = measured[value.task, value.metric]
    return tolerance.compare(value, found.value, expected.constants, documents=found.n_samples)
