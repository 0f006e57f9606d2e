"""Hands the jobs of a session to whoever evaluates them: one after the other, those of the stand-ins side by side."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import pytest

from scanproof import comparing, session, state
from scanproof import settings as options
from scanproof.ahead import Ahead, Show, Stopped, at_once
from scanproof.evaluation import Settings
from scanproof.progress import ProgressLine
from scanproof.remeasuring import Auto

if TYPE_CHECKING:
    from scanproof.engines import Engine
    from scanproof.record import Evaluation
    from scanproof.tolerance import Verdict
    from scanproof.values import EvalJob, PublishedValue


def make_ready(config: pytest.Config, values: Sequence[PublishedValue]) -> None:
    """Selection is done: an evaluator for the jobs of these values; nothing runs before a test asks."""
    evaluator = session.Evaluator(by_engine(config, values), state.run_folder(config) / state.run_id(config))
    evaluator.select(values)
    config.stash[state.EVALUATOR] = evaluator
    jobs = {value.job.name: evaluator.narrowed(value.job) for value in values if may_run_beside_others(value.job)}
    threads = at_once(config.stash[state.SETTINGS].jobs)
    # Processes of pytest-xdist run side by side already.
    if threads > 1 and len(jobs) > 1 and not state.is_worker(config):
        engine = first_engine(config)
        run = partial(ask, config, engine)
        config.stash[state.AHEAD] = Ahead(run, list(jobs.values()), threads)


def may_run_beside_others(job: EvalJob) -> bool:
    """A small job on one core.  One on a GPU needs its memory, and a published one on the CPU all cores."""
    return job.suite == "embedded" and job.device == "cpu"


def by_engine(config: pytest.Config, values: Sequence[PublishedValue]) -> Callable[[EvalJob], Evaluation]:
    """How jobs are evaluated with the engine that was asked for."""

    def judge(value: PublishedValue, evaluation: Evaluation) -> Verdict:
        verdict = session.judge(value, evaluation, config.stash[state.EXPECTED].constants)
        return comparing.with_finding(verdict, state.second_gate(config).finding(value, evaluation))

    if config.stash[state.SETTINGS].engine == "auto":
        return Auto(partial(run_job, config), judge, values)
    return lambda job: run_job(config, job, first_engine(config))


def first_engine(config: pytest.Config) -> Engine:
    """The engine that every job runs with first."""
    return "plain" if config.stash[state.SETTINGS].engine == "plain" else "shared"


def run_job(config: pytest.Config, job: EvalJob, engine: Engine) -> Evaluation:
    """Evaluate one job and show how far it is; one that may run beside others may have begun long before.

    Raises EvaluationError.
    """
    if state.RECORDER in config.stash:
        # A job may take hours and be killed: what is known so far is on disk before it starts.
        config.stash[state.RECORDER].write(finished=False)
    evaluator = config.stash[state.EVALUATOR]
    again = ", again by plain" if engine != first_engine(config) else ""
    place = f"[{len(evaluator.finished) + 1}/{len(evaluator.tasks_selected)}{again}]"
    beside = config.stash.get(state.AHEAD, None)
    with ProgressLine(config, job, place) as show:
        if beside is not None and job in beside and not again:
            return beside(job, show)
        return ask(config, engine, job, show, lambda: False)


def ask(config: pytest.Config, engine: Engine, job: EvalJob, show: Show, stopped: Stopped) -> Evaluation:
    """Hand one job to whoever evaluates jobs here, on any thread; raises EvaluationError."""
    given = config.stash[state.SETTINGS]
    settings = Settings(
        store=given.store,
        mirror=options.EMBEDDED_MIRROR if job.suite == "embedded" else given.mirror,
        fresh=given.fresh,
        timeout=given.timeout,
        session=state.run_id(config),
        engine=engine,
        stopped=stopped,
    )
    result: Evaluation = config.hook.pytest_scanproof_evaluate(
        config=config,
        job=replace(job, limit=job.limit if given.limit is None else given.limit),
        settings=settings,
        progress=show,
    )
    return result


def close(config: pytest.Config) -> None:
    """End what runs beside others: called when the session ends, before its run is written for the last time."""
    beside = config.stash.get(state.AHEAD, None)
    if beside is not None:
        beside.close()
