"""The answers of a job, document by document."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

ANSWERS = ".answers.jsonl.gz"
"""Ending of the file beside a stand-in's expected file: what each document got in float64, a line per document."""


@dataclass(frozen=True, kw_only=True)
class TaskSamples:
    """The answers of one evaluation to the documents of one task, in the order of the document ids."""

    job: str
    task: str
    doc_ids: tuple[int, ...]
    documents_hash: str
    """Digest of the hashes of the documents and of their targets, in order."""
    prompts_hash: str
    """Digest of the hashes of the prompts, in order."""
    questions_hash: str | None = None
    """Digest of the hashes of all that the model was given: prompts and answers to choose from, in order.

    None where they were not kept: logs until November 2026.
    """
    targets: tuple[int | None, ...]
    """Index of the right answer of each document; None where the task gives none."""
    loglikelihoods: tuple[tuple[float, ...], ...]
    """Log-likelihood of each answer of each document, in nats."""
    metrics: Mapping[str, tuple[float | None, ...]]
    """Metric -> the contribution of each document."""
    right: tuple[tuple[int, ...] | None, ...] = field(default=(), compare=False)
    """Indices of the right answers of each document; None where they were not kept."""
    lengths: tuple[tuple[int, ...] | None, ...] = field(default=(), compare=False)
    """Length of each answer of each document in characters; None where they were not kept."""
    greedy: tuple[bool | None, ...] = field(default=(), compare=False)
    """Whether the only answer of each document is what the model would say itself; None where that was not kept."""


Samples = dict[tuple[str, str], TaskSamples]
"""By job and task."""


def digest_lines(parts: Iterable[str]) -> str:
    """sha256, in hex, of the parts as lines."""
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def parse_number(value: Any) -> float | None:
    """Read a logged number; inf and NaN are logged as text.  None for anything that is not a number."""
    if isinstance(value, bool | int | float):
        return float(value)
    return float(value) if value in ("inf", "-inf", "nan") else None
