"""What a job answered, document by document."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

ANSWERS = ".answers.jsonl.gz"
"""Ending of the file beside a stand-in's expected file: what each document got in float64, a line per document."""


@dataclass(frozen=True, kw_only=True)
class TaskSamples:
    """The documents of one task as one evaluation answered them, in the order of their ids."""

    job: str
    task: str
    doc_ids: tuple[int, ...]
    documents_hash: str
    """Digest of the hashes of the documents and of their targets, in order."""
    prompts_hash: str
    """Digest of the hashes of the prompts, in order."""
    targets: tuple[int | None, ...]
    """Index of the right answer, where the task counts its answers."""
    loglikelihoods: tuple[tuple[float, ...], ...]
    """Natural log-likelihood of each answer."""
    metrics: Mapping[str, tuple[float | None, ...]]
    """What each document contributes to a metric."""


Samples = dict[tuple[str, str], TaskSamples]
"""By job and task."""


def digest_lines(parts: Iterable[str]) -> str:
    """sha256 of lines."""
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def parse_number(value: Any) -> float | None:
    """A number as it was logged; what is not finite was logged as text; None for what is no number."""
    if isinstance(value, bool | int | float):
        return float(value)
    return float(value) if value in ("inf", "-inf", "nan") else None
