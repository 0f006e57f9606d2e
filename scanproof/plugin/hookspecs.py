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

    `samples` of the result is a folder with `<task>.jsonl` of every task, a line per document in the form of
    `scanproof.evaluation.results.answer_line`.  A line has to have `doc_id`, `doc_hash`, `prompt_hash`, `target_hash`,
    `question_hash` (of everything that the model was given), `target` (None where the task gives no index),
    `loglikelihoods` and `metrics`; the documents of a task are numbered 0 to n-1, each once.  A result that lacks the
    file of a task, or any of these, is refused in every session, whole.
    `right`, `lengths` and `is_greedy` say what scores are made of.
    Each number is made again from its answers: an answer that is no finite number,
    a score or an aggregate that does not follow is an error.  So is, under --scanproof-strict and for the stand-ins
    always, a number that cannot be made again because something of its answers was not kept.

    The result is refused, and its numbers are errors, where it does not belong to the job: where `job` differs in more
    than device, batch size and further arguments; where a stand-in ran on another kind of device than its job names, by
    `job.device` or `environment["device"]`; where a measurement lacks its version, or has other shots or documents than
    were asked for; where `prompts_hash` is not that of the logged prompts, as
    `scanproof.evaluation.results.hash_prompts` makes it; and where `environment["packages"]["lm-eval"]` does not say
    which harness asked.  A fresh session, and any under --scanproof-strict, takes only what was measured in it:
    `session` has to be `settings.session`, and `measured` the time at which it was measured, ISO 8601, not before the
    session began and not still to come.  What an implementation kept from an earlier session it must not name so: it
    measures again, or raises.  Elsewhere a result of another session, or of an earlier time, counts as reused.
    `environment["probe_tokens"]` are the tokens that the model class makes of a fixed text, `scanproof.evaluation.
    worker.run.PROBE`.  A result without them is refused where its baseline has them.  Where the baseline alone lacks
    them, the numbers are not compared: that fails them under --scanproof-strict, and for the stand-ins always.
    `unmeasured` names tasks that could not be loaded, and why: their numbers alone are errors, or skips.

    `settings.engine` is `plain` or `shared`.  An implementation that only knows lm-eval may ignore it: an `Evaluation`
    whose `engine` is `plain` is never measured again.  One that scores by `shared` may be asked for the same job by
    `plain` in the same session, and then keeps the two folders of samples apart.
    """
