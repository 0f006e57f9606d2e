"""Hands the jobs of a session to whoever evaluates them: one after the other, those of the stand-ins side by side."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import pytest

from scanproof.evaluation.auto_engine import Auto
from scanproof.evaluation.evaluate_job import Settings
from scanproof.history import second_gate
from scanproof.plugin import evaluator as evaluator_module
from scanproof.plugin import options, run_recorder, stash
from scanproof.plugin.progress import ProgressLine
from scanproof.plugin.side_by_side import Ahead, Show, Stopped, at_once

if TYPE_CHECKING:
    from scanproof.numbers.values import EvalJob, PublishedValue
    from scanproof.numbers.verdict.engines import Engine
    from scanproof.numbers.verdict.tolerance import Verdict
    from scanproof.record import Evaluation


def make_ready(config: pytest.Config, values: Sequence[PublishedValue]) -> None:
    """Selection is done: an evaluator for the jobs of these values; nothing runs before a test asks."""
    evaluator = evaluator_module.Evaluator(by_engine(config, values), stash.run_folder(config) / stash.run_id(config))
    evaluator.select(values)
    config.stash[stash.EVALUATOR] = evaluator
    jobs = {value.job.name: evaluator.narrowed(value.job) for value in values if may_run_beside_others(value.job)}
    threads = at_once(config.stash[stash.SETTINGS].jobs)
    # Processes of pytest-xdist run side by side already.
    if threads > 1 and len(jobs) > 1 and not stash.is_worker(config):
        engine = first_engine(config)
        run = partial(ask, config, engine)
        config.stash[stash.AHEAD] = Ahead(run, list(jobs.values()), threads)


def may_run_beside_others(job: EvalJob) -> bool:
    """A small job on one core.  One on a GPU needs its memory, and a published one on the CPU all cores."""
    return job.suite == "embedded" and job.device == "cpu"


def by_engine(config: pytest.Config, values: Sequence[PublishedValue]) -> Callable[[EvalJob], Evaluation]:
    """How jobs are evaluated with the engine that was asked for."""

    def judge(value: PublishedValue, evaluation: Evaluation) -> Verdict:
        verdict = run_recorder.judge(value, evaluation, config.stash[stash.EXPECTED].constants)
        return second_gate.with_finding(verdict, stash.second_gate(config).finding(value, evaluation))

    if config.stash[stash.SETTINGS].engine == "auto":
        return Auto(partial(run_job, config), judge, values)
    return lambda job: run_job(config, job, first_engine(config))


def first_engine(config: pytest.Config) -> Engine:
    """The engine that every job runs with first."""
    return "plain" if config.stash[stash.SETTINGS].engine == "plain" else "shared"


def run_job(config: pytest.Config, job: EvalJob, engine: Engine) -> Evaluation:
    """Evaluate one job and show how far it is; one that may run beside others may have begun long before.

    Raises EvaluationError.
    """
    if stash.RECORDER in config.stash:
        # A job may take hours and be killed: what is known so far is on disk before it starts.
        config.stash[stash.RECORDER].write(finished=False)
    evaluator = config.stash[stash.EVALUATOR]
    again = ", again by plain" if engine != first_engine(config) else ""
    place = f"[{len(evaluator.finished) + 1}/{len(evaluator.tasks_selected)}{again}]"
    beside = config.stash.get(stash.AHEAD, None)
    with ProgressLine(config, job, place) as show:
        if beside is not None and job in beside and not again:
            return beside(job, show)
        return ask(config, engine, job, show, lambda: False)


def ask(config: pytest.Config, engine: Engine, job: EvalJob, show: Show, stopped: Stopped) -> Evaluation:
    """Hand one job to whoever evaluates jobs here, on any thread; raises EvaluationError."""
    given = config.stash[stash.SETTINGS]
    settings = Settings(
        store=given.store,
        mirror=options.EMBEDDED_MIRROR if job.suite == "embedded" else given.mirror,
        fresh=given.fresh,
        timeout=given.timeout,
        session=stash.run_id(config),
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
    beside = config.stash.get(stash.AHEAD, None)
    if beside is not None:
        beside.close()
