"""The hooks that scanproof offers to other plugins and to conftest files."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from scanproof.evaluation.process import Progress
    from scanproof.evaluation.request import Settings
    from scanproof.numbers.values import EvalJob
    from scanproof.record import Evaluation


@pytest.hookspec(firstresult=True)
def pytest_scanproof_evaluate(
    config: pytest.Config, job: EvalJob, settings: Settings, progress: Callable[[Progress], None]
) -> Evaluation | None:
    """Run one evaluation job and return what it measured.

    Called once per job and process, in the process that runs the tests (an xdist worker, where there is one).  Jobs of
    the stand-ins are called from other threads, `--scanproof-jobs` at a time; all others from pytest's own.  When the
    session is over, `settings.stopped()` is true, and the implementation ends soon, by raising.
    The default implementation runs lm-eval in a worker process on this machine; implement the hook to run jobs
    elsewhere.  Return None to leave the job to the next implementation.  A job that cannot be run raises
    `scanproof.errors.EvaluationError`; its numbers are then reported as errors, never as failures.  So are those of a
    job that names kernels when the result's `kernels` does not show that they ran (`scanproof.kernels.launches.proof`).

    `settings.engine` is `plain` or `shared`.  An implementation that only knows lm-eval may ignore it: an `Evaluation`
    whose `engine` is `plain` is never measured again.  One that scores by `shared` may be asked for the same job by
    `plain` in the same session, and then keeps the two folders of samples apart.
    """
