"""Checks that the kernels which a job's numbers need were launched."""

from __future__ import annotations

from collections.abc import Sequence

from scanproof.errors import EvaluationError
from scanproof.kernels.launches.proof import MissingKernel, describe_missing_kernels, find_missing_kernels
from scanproof.numbers.values import EvalJob
from scanproof.record import Evaluation


def require_kernels(job: EvalJob, evaluation: Evaluation) -> None:
    """Raise EvaluationError unless the evaluation proves that the job's kernels ran.

    It is called for every evaluation, also for those of a user's own hook.
    """
    missing = find_missing_kernels(job.kernels, evaluation.kernels)
    if missing:
        raise fallback_error(missing)


def fallback_error(missing: Sequence[MissingKernel]) -> EvaluationError:
    """The error for kernels that did not run."""
    return EvaluationError("fallback", describe_missing_kernels(missing))
