"""Decide whether this machine can run a job, before a worker starts and before anything is downloaded."""

from __future__ import annotations

import os
from collections.abc import Mapping

from scanproof import environment
from scanproof.errors import EvaluationError
from scanproof.evaluation.planning import gpu_memory
from scanproof.numbers.expected.tasks import TaskInfo
from scanproof.numbers.values import EvalJob


def place(job: EvalJob, tasks: Mapping[str, TaskInfo]) -> EvalJob:
    """The job as it can run here: on one GPU, or spread over the visible ones.

    Raises:
        EvaluationError: of kind `missing`.  The job does not fit, and the message has the arithmetic; or it needs code
            of the checkpoint that nobody allowed.
    """
    if reason := why_refused(job):
        raise EvaluationError("missing", reason)
    if not job.device.startswith("cuda"):
        return job
    fitted = gpu_memory.fit_to_gpus(job, tasks, visible_memory())
    if isinstance(fitted, str):
        raise EvaluationError("missing", f"{job.name}: {fitted}")
    return fitted


def why_refused(job: EvalJob) -> str | None:
    """Why a job may not run although the machine could run it; None when it may."""
    if not job.needs_remote_code or job.trust_remote_code is not None:
        return None
    return (
        f"{job.pretrained} cannot be loaded without Python files that come with it, which are not run unless somebody "
        "has read them: write job.trust_remote_code with the reason into its expected file"
    )


def visible_memory() -> list[int]:
    """Bytes of memory of each GPU that CUDA shows to a program, in CUDA's order; empty where there is none."""
    all_of_them = [int(gpu["memory.total"]) * 1024**2 for gpu in environment.gpus() if gpu["memory.total"].isdigit()]
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is None:
        return all_of_them
    indices = [int(index) for index in chosen.split(",") if index.strip().isdigit()]
    return [all_of_them[index] for index in indices if index < len(all_of_them)]
