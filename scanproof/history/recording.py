"""Write the measurements of a trusted run as expected values, for numbers that were never printed."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scanproof.files import replace_atomically
from scanproof.history import run_failures
from scanproof.numbers.values import UNRECORDED, PublishedValue
from scanproof.numbers.verdict import derive
from scanproof.record import Evaluation, Record, Run

DIGITS = {"fraction": 4, "percent": 2, "raw": 4}
"""Decimals written, by unit: finer than one document of any task."""


class RecordingError(Exception):
    """A number that may not be recorded; the message says why, line by line."""


@dataclass(frozen=True)
class RecordedNumber:
    """One number as it will be written."""

    value: PublishedValue
    printed: str
    evaluation: Evaluation


def why_not_trusted(run: Run) -> list[str]:
    """Why nothing may be recorded from a run; empty when it can be trusted."""
    reasons = []
    if any(run_failures.unfinished(run)):
        reasons.append("it is partial: the session was stopped before all its numbers were measured")
    if run.limit is not None:
        reasons.append(f"it is limited to the first {run.limit} documents of each task")
    reasons += run_failures.list_failures_so_far(run)
    if (run.environment.get("source") or {}).get("changed"):
        reasons.append("the clone that ran had changes that were not committed")
    return reasons


def select_numbers(run: Run, wanted: Sequence[PublishedValue]) -> list[RecordedNumber]:
    """The wanted numbers as the run measured them.

    Raises:
        RecordingError: says everything that forbids it, for the run and for each number.
    """
    problems = [f"run {run.id} cannot be trusted: {reason}" for reason in why_not_trusted(run)]
    records = {kept.id: kept for kept in run.records}
    evaluations = {evaluation.job.name: evaluation for evaluation in run.evaluations}
    recorded: list[RecordedNumber] = []
    for value in wanted:
        evaluation = evaluations.get(value.job.name)
        reasons = list(_why_not(value, records.get(value.id), evaluation))
        problems += [f"{value.id}: {reason}" for reason in reasons]
        if evaluation is not None and not reasons:
            measured = derive.measurement_of(value, evaluation.measurements).value
            recorded.append(RecordedNumber(value, f"{measured * value.scale:.{DIGITS[value.unit]}f}", evaluation))
    if problems:
        raise RecordingError("\n".join(problems))
    return recorded


def _why_not(value: PublishedValue, kept: Record | None, evaluation: Evaluation | None) -> Iterator[str]:
    if not value.unrecorded:
        yield f"has a number already, {value.printed}; write printed: {UNRECORDED} without run: to record another"
        return
    if kept is None or evaluation is None or kept.verdict is None:
        yield f"was not measured in this run: {kept.because if kept else 'its test was not selected'}"
        return
    job = evaluation.job
    if job.limit is not None:
        yield f"the evaluation is limited to the first {job.limit} documents of each task"
    if _without_tasks(job) != _without_tasks(value.job):
        yield "the expected file asks for another evaluation than the one that ran; run it again"
    if kept.verdict.not_made_again is not None:
        yield f"its scores were not made again from its answers: {kept.verdict.not_made_again}; measure it again"
    ran_on = str(evaluation.environment.get("device", ""))
    if not ran_on.startswith(job.device):
        yield f"the evaluation fell back from {job.device} to {ran_on or 'an unknown device'}"
    try:
        measured = derive.measurement_of(value, evaluation.measurements)
    except derive.DeriveError as error:
        yield str(error)
        return
    if value.documents is not None and measured.n_samples != value.documents:
        yield f"{measured.n_samples} documents were scored, {value.documents} expected"


def _without_tasks(job: Any) -> tuple[Any, ...]:
    """Everything of a job but its tasks, which a selection of tests narrows, and the limit."""
    return tuple(item for name, item in vars(job).items() if name not in ("tasks", "limit"))


def write_numbers(run: Run, recorded: Iterable[RecordedNumber], folder: Path) -> list[Path]:
    """Put the numbers and where they come from into their files; returns the files.

    Every file is written as it was but for its own lines: `printed` and `run` of each number, and one more entry
    under `runs`.

    Raises:
        RecordingError: a number does not stand on one line of its own.
    """
    by_file: dict[str, list[RecordedNumber]] = {}
    for number in recorded:
        by_file.setdefault(number.value.file, []).append(number)
    texts = {folder / name: _edited(run, folder / name, numbers) for name, numbers in by_file.items()}
    for path, text in texts.items():
        with replace_atomically(path) as temporary:
            temporary.write_text(text, encoding="utf-8")
    return list(texts)


def _edited(run: Run, path: Path, numbers: Collection[RecordedNumber]) -> str:
    lines = path.read_text(encoding="utf-8").splitlines()
    for number in numbers:
        index = number.value.file_line - 1
        pattern = rf"printed:\s*[\"']?{UNRECORDED}[\"']?(?=\s*[,}}])"
        lines[index], count = re.subn(pattern, f'printed: "{number.printed}", run: {run.id}', lines[index])
        if count != 1:
            raise RecordingError(
                f"{path}:{index + 1}: expected the number on this line, {{..., printed: {UNRECORDED}}}"
            )
    evaluations = {number.evaluation.job.name: number.evaluation for number in numbers}
    if f"  {run.id}:" in lines:
        raise RecordingError(f"{path}: holds numbers of this run already; record all numbers of a file at once")
    at = next((n for n, line in enumerate(lines) if line.rstrip() == "runs:"), None)
    if at is None:
        at = next(n for n, line in enumerate(lines) if line.startswith("values:"))
        lines.insert(at, "runs:")
    for shift, line in enumerate(_provenance(run, tuple(evaluations.values())), start=at + 1):
        lines.insert(shift, line)
    return "\n".join(lines) + "\n"


def _provenance(run: Run, evaluations: Sequence[Evaluation]) -> Iterator[str]:
    """The entry of a run, as YAML; one file has the evaluations of one model, run on one machine."""
    first = evaluations[0]
    environment = first.environment
    fields: dict[str, Any] = {
        "date": run.started,
        "key": " ".join(evaluation.key for evaluation in evaluations),
        "command": "; ".join(evaluation.command for evaluation in evaluations),
        "commit": (run.environment.get("source") or {}).get("commit"),
        "checkpoint_commit": environment.get("checkpoint_commit"),
        "removed_layers": environment.get("removed_layers"),
        "device": environment.get("device_name") or environment.get("device"),
        "python": environment.get("python"),
        "packages": _installed(environment.get("packages") or {}),
    }
    yield f"  {run.id}:"
    for name, item in fields.items():
        if item is not None:
            # JSON is YAML as well, and quotes what needs it.
            yield f"    {name}: {json.dumps(item, ensure_ascii=False)}"


def _installed(packages: Mapping[str, str | None]) -> dict[str, str]:
    return {name: version for name, version in sorted(packages.items()) if version is not None}
