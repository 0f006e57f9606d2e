"""Whether this machine can take a job, before a worker starts and before anything is downloaded."""

from __future__ import annotations

import os
from collections.abc import Mapping

from scanproof import environment
from scanproof.errors import EvaluationError
from scanproof.evaluation.planning import gpu_memory
from scanproof.numbers.expected.tasks import TaskInfo
from scanproof.numbers.values import EvalJob


def place(job: EvalJob, tasks: Mapping[str, TaskInfo]) -> EvalJob:
    """The job as it can run here: on one GPU, or spread over those that are visible.

    Raises EvaluationError of kind `missing`, with the arithmetic, where it does not fit, and where it needs code of
    the checkpoint that nobody allowed.
    """
    if refused := why_refused(job):
        raise EvaluationError("missing", refused)
    if not job.device.startswith("cuda"):
        return job
    fits = gpu_memory.fitted(job, tasks, visible_memory())
    if isinstance(fits, str):
        raise EvaluationError("missing", f"{job.name}: {fits}")
    return fits


def why_refused(job: EvalJob) -> str | None:
    """Why a job may not run although the machine could; None when it may."""
    if not job.needs_remote_code or job.trust_remote_code is not None:
        return None
    return (
        f"{job.pretrained} cannot be loaded without Python files that come with it, which are not run unless somebody "
        "has read them: write job.trust_remote_code with the reason into its expected file"
    )


def visible_memory() -> list[int]:
    """Bytes of each GPU that CUDA shows to a program, in its order; empty where the driver names none."""
    all_of_them = [int(gpu["memory.total"]) * 1024**2 for gpu in environment.gpus() if gpu["memory.total"].isdigit()]
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is None:
        return all_of_them
    indices = [int(index) for index in chosen.split(",") if index.strip().isdigit()]
    return [all_of_them[index] for index in indices if index < len(all_of_them)]
