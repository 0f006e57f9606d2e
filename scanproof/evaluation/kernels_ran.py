"""Whether the kernels that a job's numbers need were launched."""

from __future__ import annotations

from collections.abc import Sequence

from scanproof.errors import EvaluationError
from scanproof.kernels.launches.proof import MissingKernel, message, problems
from scanproof.numbers.values import EvalJob
from scanproof.record import Evaluation


def require_kernels(job: EvalJob, evaluation: Evaluation) -> None:
    """Raise EvaluationError unless the evaluation shows that the job's kernels ran, whoever evaluated it."""
    found = problems(job.kernels, evaluation.kernels)
    if found:
        raise fallback_error(found)


def fallback_error(found: Sequence[MissingKernel]) -> EvaluationError:
    """The error for kernels that did not run."""
    return EvaluationError("fallback", message(found))
