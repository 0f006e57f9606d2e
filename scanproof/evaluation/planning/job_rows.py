"""Rows that describe jobs, for tables and programs."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from scanproof.numbers.values import EvalJob, PublishedValue


def jobs(values: Iterable[PublishedValue]) -> list[tuple[EvalJob, int]]:
    """Each distinct job, with how many of the values it measures."""
    counts: dict[EvalJob, int] = {}
    for value in values:
        counts[value.job] = counts.get(value.job, 0) + 1
    return list(counts.items())


def job_row(job: EvalJob, values: int) -> dict[str, Any]:
    """The fields that every listing shows of an evaluation job; `values` is how many numbers it measures."""
    return {
        "job": job.name,
        "model_class": job.model,
        "pretrained": job.pretrained,
        "revision": job.revision,
        "dtype": job.dtype,
        "num_fewshot": job.num_fewshot,
        "batch_size": job.batch_size,
        "max_length": job.max_length,
        "model_args": dict(job.model_args),
        "kernels": list(job.kernels),
        "tasks": list(job.tasks),
        "values": values,
    }


def job_rows(values: Iterable[PublishedValue]) -> list[dict[str, Any]]:
    """One row per evaluation job."""
    return [job_row(job, count) for job, count in jobs(values)]
