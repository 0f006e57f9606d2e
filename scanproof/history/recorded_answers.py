"""The answers that are kept beside the expected values of a stand-in: what each document got in float64."""

from __future__ import annotations

import gzip
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from scanproof.history.errors import HistoryError
from scanproof.history.samples import from_lines
from scanproof.numbers.expected.reader import Expected
from scanproof.numbers.values import PublishedValue
from scanproof.numbers.verdict.answers import ANSWERS, TaskSamples

JOB = "recorded"
"""What stands for the name of a job in the samples of recorded answers."""


@dataclass(frozen=True, kw_only=True)
class RecordedAnswers:
    """The recorded answers of one stand-in."""

    name: str
    """How they are spoken of: `the answers recorded in float64 (mamba1-tiny.answers.jsonl.gz)`."""
    harness: str | None
    """Version of lm-eval that asked the questions."""
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


def find_recorded_file(expected: Expected, value: PublishedValue) -> Path | None:
    """The file with the recorded answers of a number's stand-in; None for other models, or where there is none."""
    path = expected.folder / Path(value.file).with_suffix(ANSWERS)
    return path if value.job.suite == "embedded" and path.is_file() else None


def read_recorded_answers(expected: Expected, value: PublishedValue, path: Path) -> RecordedAnswers:
    """The recorded answers of a number's stand-in, all tasks, from the file that `find_recorded_file` found.

    Raises HistoryError naming the file when it cannot be read.
    """
    document = next(each for each in expected.documents if each.number == value.document)
    rows, samples = read_answers_file(path)
    return RecordedAnswers(
        name=f"the answers recorded in float64 ({path.name})",
        harness=document.harness.get("version"),
        samples=samples,
        rows=rows,
    )


def read_answers_file(path: Path) -> tuple[dict[str, dict[int, dict[str, Any]]], dict[str, TaskSamples]]:
    """Lines by task and doc_id, and what they say as samples.

    Raises HistoryError naming the file when it cannot be read.
    """
    rows: dict[str, dict[int, dict[str, Any]]] = {}
    try:
        with gzip.open(path, "rt") as lines:
            for row in map(json.loads, lines):
                documents = rows.setdefault(row["task"], {})
                if documents.setdefault(row["doc_id"], row) is not row:
                    raise ValueError(f"{row['task']}: doc_id {row['doc_id']} is there twice")
        return rows, sample_tasks(rows)
    except (OSError, EOFError, ValueError, KeyError, TypeError) as error:
        raise HistoryError(f"{path}: answers cannot be read: {type(error).__name__}: {error}") from error


def sample_tasks(rows: Mapping[str, Mapping[int, Mapping[str, Any]]]) -> dict[str, TaskSamples]:
    """The samples of each task; raises KeyError, TypeError or ValueError where a line is no answer."""
    return {task: from_lines(JOB, task, documents.values()) for task, documents in rows.items()}
