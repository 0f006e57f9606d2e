"""Hands the jobs of a session to whoever evaluates them: one after the other, those of the stand-ins side by side."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import pytest

from scanproof.errors import EvaluationError
from scanproof.evaluation.auto_engine import AutoEngine
from scanproof.evaluation.request import Settings, clear_cache
from scanproof.history.errors import HistoryError
from scanproof.plugin import options, ownership
from scanproof.plugin.evaluator import Evaluator
from scanproof.plugin.progress import ProgressLine
from scanproof.plugin.run_recorder import read_start
from scanproof.plugin.session import Session
from scanproof.plugin.side_by_side import Show, SideBySide, Stopped, at_once

if TYPE_CHECKING:
    from scanproof.numbers.values import EvalJob, PublishedValue
    from scanproof.numbers.verdict.answers import Samples
    from scanproof.numbers.verdict.engines import EngineName
    from scanproof.numbers.verdict.tolerance import Verdict
    from scanproof.record import Evaluation


def prepare_jobs(session: Session, values: Sequence[PublishedValue]) -> None:
    """Selection is done: an evaluator for the jobs of these values; nothing runs before a test asks."""
    folder = session.runs_folder / session.run_id
    evaluator = Evaluator(choose_evaluate(session, values), folder, moved=session.second_gate.move_logs)
    evaluator.select(values)
    session.evaluator = evaluator
    jobs = {value.job.name: evaluator.narrowed(value.job) for value in values if may_run_beside_others(value.job)}
    threads = at_once(session.settings.jobs)
    # Processes of pytest-xdist run side by side already.
    if threads > 1 and len(jobs) > 1 and not session.is_worker:
        run = partial(evaluate_by_hook, session, first_engine(session))
        session.side_by_side = SideBySide(run, list(jobs.values()), threads)


def may_run_beside_others(job: EvalJob) -> bool:
    """A small job on one core.  One on a GPU needs its memory, and a published one on the CPU all cores."""
    return job.suite == "embedded" and job.device == "cpu"


def choose_evaluate(session: Session, values: Sequence[PublishedValue]) -> Callable[[EvalJob], Evaluation]:
    """The function that evaluates a job with the engine that was asked for."""

    def judge(value: PublishedValue, evaluation: Evaluation) -> Verdict:
        return session.second_gate.judge(value, evaluation, session.due).verdict

    if session.settings.engine == "auto":
        return AutoEngine(partial(run_job, session), judge, values)
    return lambda job: run_job(session, job, first_engine(session))


def first_engine(session: Session) -> EngineName:
    """The engine that every job runs with first."""
    return "plain" if session.settings.engine == "plain" else "shared"


def run_job(session: Session, job: EvalJob, engine: EngineName) -> Evaluation:
    """Evaluate one job and show how far it is; one that may run beside others may have begun long before.

    Raises EvaluationError.
    """
    if session.recorder is not None:
        # A job may take hours and be killed: what is known so far is on disk before it starts.
        session.recorder.write(finished=False)
    evaluator, beside = session.evaluator, session.side_by_side
    assert evaluator is not None
    again = ", again by plain" if engine != first_engine(session) else ""
    place = f"[{len(evaluator.finished) + 1}/{len(evaluator.tasks_selected)}{again}]"
    with ProgressLine(session.config, job, place) as show:
        if beside is not None and job in beside and not again:
            return beside(job, show)
        return evaluate_by_hook(session, engine, job, show, lambda: False)


def evaluate_by_hook(session: Session, engine: EngineName, job: EvalJob, show: Show, stopped: Stopped) -> Evaluation:
    """Evaluate one job through `pytest_scanproof_evaluate`, on any thread; raises EvaluationError.

    What the hook returns is taken only if it belongs to the job, and brings what its numbers are judged by.
    """
    given = session.settings
    settings = Settings(
        store=given.store,
        mirror=options.EMBEDDED_MIRROR if job.suite == "embedded" else given.mirror,
        fresh=given.fresh,
        timeout=given.timeout,
        session=session.run_id,
        began=read_start(session.run_id),
        engine=engine,
        stopped=stopped,
        imports=session.imports,
    )
    asked = replace(job, limit=job.limit if given.limit is None else given.limit)
    evaluation = ownership.mark_reused(ownership.read_result(call_hook(session, asked, settings, show)), settings)
    assert session.evaluator is not None
    ownership.require_own(
        evaluation, asked, session.evaluator.single_tasks.get(job.name, frozenset()), settings,
        read_answers(session, evaluation), session.task_versions,
        with_tokens=session.second_gate.says_tokens(evaluation),
    )  # fmt: skip
    return evaluation


def call_hook(session: Session, job: EvalJob, settings: Settings, show: Show) -> object:
    """What the hook returns; one that skips or leaves cannot measure the job, and says nothing about its numbers.

    Raises EvaluationError.
    """
    call = session.config.hook.pytest_scanproof_evaluate
    try:
        return call(config=session.config, job=job, settings=settings, progress=show)
    except pytest.skip.Exception as skipped:
        raise EvaluationError("missing", f"the hook that evaluates skipped: {skipped}") from None
    except (pytest.xfail.Exception, pytest.fail.Exception, SystemExit) as error:
        raise EvaluationError("worker", f"the hook that evaluates ended: {type(error).__name__}: {error}") from None


def read_answers(session: Session, evaluation: Evaluation) -> Samples | HistoryError:
    """The kept answers of an evaluation, or why they cannot be read."""
    try:
        return session.second_gate.samples(evaluation)
    except HistoryError as error:
        return error


def close(session: Session) -> None:
    """End what runs beside others: called when the session ends, before its run is written for the last time."""
    if session.side_by_side is not None:
        session.side_by_side.close()
    if session.settings.fresh and not session.is_worker:
        clear_cache(session.settings.store, session.run_id)
