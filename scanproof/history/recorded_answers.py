"""The answers that are kept beside the expected values of a stand-in: what each document got in float64."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from scanproof import files
from scanproof.history.errors import HistoryError
from scanproof.history.samples import from_lines
from scanproof.numbers.expected.reader import Expected
from scanproof.numbers.values import PublishedValue
from scanproof.numbers.verdict import remaking, rounding
from scanproof.numbers.verdict.answers import ANSWERS, TaskSamples
from scanproof.numbers.verdict.baseline_gate import Baseline
from scanproof.numbers.verdict.paired_tests import PairedComparison, refuse
from scanproof.numbers.verdict.scores import MissingEvidenceError

RESTORE = "restore it: git checkout, or install scanproof again"
RECORD = "python -m scanproof.embedded.record"
MEASURE = "python -m scanproof.embedded.rounding"
HEADER = "probe_tokens"
"""Key of the first line of a file of answers, which is about all of them."""
JOB = "recorded"
"""What stands for the name of a job in the samples of recorded answers."""


@dataclass(frozen=True, kw_only=True)
class RecordedAnswers:
    """The recorded answers of one stand-in."""

    name: str
    """How they are spoken of: `the answers recorded in float64 (mamba1-tiny.answers.jsonl.gz)`."""
    harness: str | None
    """Version of lm-eval that asked the questions."""
    probe_tokens: tuple[int, ...]
    """What a fixed text became for the model (`scanproof.evaluation.worker.run.probe_tokens`)."""
    samples: Mapping[str, TaskSamples]
    """Task -> its answers."""
    rows: Mapping[str, Mapping[int, Mapping[str, Any]]]
    """Task -> doc_id -> the recorded line, with the document's hashes."""

    def of_documents(self, wanted: Mapping[str, set[int]]) -> RecordedAnswers:
        """The answers of these documents only; a task that is not named has none."""
        rows = {
            task: {doc: row for doc, row in rows.items() if doc in wanted[task]}
            for task, rows in self.rows.items()
            if task in wanted
        }
        return replace(self, rows=rows, samples=sample_tasks(rows))


def recorded_file(expected: Expected, value: PublishedValue) -> Path | None:
    """Where the recorded answers of a number's stand-in have to be; None for other models."""
    if value.job.suite != "embedded":
        return None
    return expected.folder / Path(value.file).with_suffix(ANSWERS)


def read_recorded_baseline(expected: Expected, value: PublishedValue, path: Path) -> Baseline:
    """The recorded answers as the baseline of a number's stand-in; raises HistoryError."""
    answers = read_recorded_answers(expected, value, path)
    samples = {(task.job, task.task): task for task in answers.samples.values()}
    remedy = f"if the change is meant, record the stand-in again: {RECORD} --model {path.name.removesuffix(ANSWERS)}"
    return Baseline(name=answers.name, samples=samples, remedy=remedy, probe_tokens=answers.probe_tokens)


def refuse_other_expectation(value: PublishedValue, recorded: Baseline) -> PairedComparison | None:
    """Refused where a stand-in's expected number is not made of its recorded answers; None where it is.

    Else the number could be edited to what a fault measures.
    """
    try:
        samples = {task: answers for (_, task), answers in recorded.samples.items()}
        other = remaking.explain_other_expectation(value, samples)
    except MissingEvidenceError as error:
        other = str(error)
    return refuse(value.id, recorded.name, other, f"{RESTORE}; {recorded.remedy}") if other is not None else None


def read_recorded_answers(expected: Expected, value: PublishedValue, path: Path) -> RecordedAnswers:
    """The recorded answers of a number's stand-in, all tasks, from its `recorded_file`.

    Raises HistoryError naming the file when it is not there, cannot be read, or holds answers other than those for
    which it was measured how far rounding moves them.
    """
    document = next(each for each in expected.documents if each.number == value.document)
    if not path.is_file():
        raise HistoryError(f"{path} is not there", RESTORE)
    header, rows, samples = read_answers_file(path)
    if not rows:
        raise HistoryError(f"{path}: it holds no answers", RESTORE)
    asked = header.get("dtype")
    if asked is None:
        raise HistoryError(f"{path}: it does not say for which dtype its answers were recorded", RESTORE)
    if asked != value.job.dtype:
        # What rounding may move is known for that dtype only; in another the same answers would prove less.
        said = f"were recorded for jobs in {asked}, and {value.job.name} asks for {value.job.dtype}"
        raise HistoryError(f"{path}: its answers {said}", f"record them for that dtype: {RECORD}")
    tokens: tuple[int, ...] | None = header.get(HEADER)
    if not tokens:
        raise HistoryError(f"{path}: it does not say which tokens a fixed text became for the model", RESTORE)
    name = path.name.removesuffix(ANSWERS)
    answers = {(task, int(doc)): row["loglikelihoods"] for task, lines in rows.items() for doc, row in lines.items()}
    if (other := rounding.explain_other_answers(value.job, answers)) is not None:
        raise HistoryError(f"{path}: {other}", f"{RESTORE}; if they are meant, measure it: {MEASURE} --model {name}")
    return RecordedAnswers(
        name=f"the answers recorded in float64 ({path.name})",
        harness=document.harness.get("version"),
        samples=samples,
        rows=rows,
        probe_tokens=tokens,
    )


def read_answers_file(
    path: Path,
) -> tuple[dict[str, Any], dict[str, dict[int, dict[str, Any]]], dict[str, TaskSamples]]:
    """What is said of all answers (`probe_tokens`, `dtype`), lines by task and doc_id, and what these say as samples.

    Raises HistoryError naming the file when it cannot be read.
    """
    header: dict[str, Any] = {}
    rows: dict[str, dict[int, dict[str, Any]]] = {}
    try:
        for number, row in enumerate(map(files.parse_json, files.read_gzip(path).splitlines()), 1):
            if HEADER in row:
                if number > 1:
                    raise ValueError(f"line {number} speaks of all answers, as the first line alone may")
                header = {**row, HEADER: read_tokens(row[HEADER])}
                continue
            documents = rows.setdefault(row["task"], {})
            if documents.setdefault(row["doc_id"], row) is not row:
                raise ValueError(f"{row['task']}: doc_id {row['doc_id']} is there twice")
        return header, rows, sample_tasks(rows)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise HistoryError(f"{path}: answers cannot be read: {type(error).__name__}: {error}", RESTORE) from error


def read_tokens(tokens: Any) -> tuple[int, ...] | None:
    """The tokens of the probe, or None where none were kept; raises ValueError for anything else."""
    if tokens is None:
        return None
    if not isinstance(tokens, list) or not all(type(token) is int for token in tokens):
        raise ValueError(f"{HEADER} is {tokens!r}, no list of whole numbers")
    return tuple(tokens)


def sample_tasks(rows: Mapping[str, Mapping[int, Mapping[str, Any]]]) -> dict[str, TaskSamples]:
    """The samples of each task; raises KeyError, TypeError or ValueError where a line is no answer."""
    return {task: from_lines(JOB, task, documents.values()) for task, documents in rows.items()}
