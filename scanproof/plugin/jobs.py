"""Hands the jobs of a session to whoever evaluates them: one after the other, those of the stand-ins side by side."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from scanproof.evaluation.auto_engine import AutoEngine
from scanproof.evaluation.request import Settings
from scanproof.history import second_gate
from scanproof.plugin import options, run_recorder
from scanproof.plugin.evaluator import Evaluator
from scanproof.plugin.progress import ProgressLine
from scanproof.plugin.session import Session
from scanproof.plugin.side_by_side import Ahead, Show, Stopped, at_once

if TYPE_CHECKING:
    from scanproof.numbers.values import EvalJob, PublishedValue
    from scanproof.numbers.verdict.engines import Engine
    from scanproof.numbers.verdict.tolerance import Verdict
    from scanproof.record import Evaluation


def prepare_jobs(session: Session, values: Sequence[PublishedValue]) -> None:
    """Selection is done: an evaluator for the jobs of these values; nothing runs before a test asks."""
    evaluator = Evaluator(choose_evaluate(session, values), session.runs_folder / session.run_id)
    evaluator.select(values)
    session.evaluator = evaluator
    jobs = {value.job.name: evaluator.narrowed(value.job) for value in values if may_run_beside_others(value.job)}
    threads = at_once(session.settings.jobs)
    # Processes of pytest-xdist run side by side already.
    if threads > 1 and len(jobs) > 1 and not session.is_worker:
        run = partial(evaluate_by_hook, session, first_engine(session))
        session.ahead = Ahead(run, list(jobs.values()), threads)


def may_run_beside_others(job: EvalJob) -> bool:
    """A small job on one core.  One on a GPU needs its memory, and a published one on the CPU all cores."""
    return job.suite == "embedded" and job.device == "cpu"


def choose_evaluate(session: Session, values: Sequence[PublishedValue]) -> Callable[[EvalJob], Evaluation]:
    """The function that evaluates a job with the engine that was asked for."""

    def judge(value: PublishedValue, evaluation: Evaluation) -> Verdict:
        verdict = run_recorder.judge(value, evaluation, session.expected.constants)
        return second_gate.with_finding(verdict, session.second_gate.finding(value, evaluation))

    if session.settings.engine == "auto":
        return AutoEngine(partial(run_job, session), judge, values)
    return lambda job: run_job(session, job, first_engine(session))


def first_engine(session: Session) -> Engine:
    """The engine that every job runs with first."""
    return "plain" if session.settings.engine == "plain" else "shared"


def run_job(session: Session, job: EvalJob, engine: Engine) -> Evaluation:
    """Evaluate one job and show how far it is; one that may run beside others may have begun long before.

    Raises EvaluationError.
    """
    if session.recorder is not None:
        # A job may take hours and be killed: what is known so far is on disk before it starts.
        session.recorder.write(finished=False)
    evaluator, beside = session.evaluator, session.ahead
    assert evaluator is not None
    again = ", again by plain" if engine != first_engine(session) else ""
    place = f"[{len(evaluator.finished) + 1}/{len(evaluator.tasks_selected)}{again}]"
    with ProgressLine(session.config, job, place) as show:
        if beside is not None and job in beside and not again:
            return beside(job, show)
        return evaluate_by_hook(session, engine, job, show, lambda: False)


def evaluate_by_hook(session: Session, engine: Engine, job: EvalJob, show: Show, stopped: Stopped) -> Evaluation:
    """Evaluate one job through `pytest_scanproof_evaluate`, on any thread; raises EvaluationError."""
    given = session.settings
    settings = Settings(
        store=given.store,
        mirror=options.EMBEDDED_MIRROR if job.suite == "embedded" else given.mirror,
        fresh=given.fresh,
        timeout=given.timeout,
        session=session.run_id,
        engine=engine,
        stopped=stopped,
    )
    result: Evaluation = session.config.hook.pytest_scanproof_evaluate(
        config=session.config,
        job=replace(job, limit=job.limit if given.limit is None else given.limit),
        settings=settings,
        progress=show,
    )
    return result


def close(session: Session) -> None:
    """End what runs beside others: called when the session ends, before its run is written for the last time."""
    if session.ahead is not None:
        session.ahead.close()
