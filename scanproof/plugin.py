"""The pytest plugin: options, markers, fixtures and hook glue.  No logic, and nothing heavy is imported."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from scanproof import settings as options
from scanproof import state
from scanproof.controller import PROPERTY, Controller, start_run

if TYPE_CHECKING:
    from scanproof.evaluation import Progress, Settings
    from scanproof.record import Evaluation, Record
    from scanproof.tolerance import Verdict
    from scanproof.values import EvalJob, PublishedValue

VALUE_FIXTURE = "scanproof_value"
"""A test with this argument runs once for every published number."""


def pytest_addoption(parser: pytest.Parser) -> None:
    options.add_options(parser)


def pytest_addhooks(pluginmanager: pytest.PytestPluginManager) -> None:
    from scanproof import hookspecs

    pluginmanager.add_hookspecs(hookspecs)


def pytest_configure(config: pytest.Config) -> None:
    for line in (
        "gpu: needs an NVIDIA GPU; published numbers and kernels as they are installed",
        "embedded: runs on the stand-ins that scanproof ships; no GPU, no hub",
        "interpreted: mamba-ssm's Triton kernels on the CPU, in an environment of their own: tox -e interpreted",
    ):
        config.addinivalue_line("markers", line)
    config.stash[state.SETTINGS] = options.read_settings(config)
    if not state.is_worker(config):
        config.pluginmanager.register(Controller(config), "scanproof-controller")


@pytest.hookimpl(tryfirst=True)
def pytest_sessionstart(session: pytest.Session) -> None:
    """Read the user's expected values before anything is collected, so that a mistake in them is a usage error.

    Those that scanproof ships are read only when a test asks for them.
    """
    if session.config.stash[state.SETTINGS].expected != options.PACKAGED_EXPECTED:
        state.expected_values(session.config)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """One test per published number; numbers of one evaluation stand together."""
    if VALUE_FIXTURE not in metafunc.fixturenames:
        return
    loaded = state.expected_values(metafunc.config)
    if loaded is None:
        raise pytest.UsageError(
            f"{metafunc.definition.nodeid} asks for published numbers, but there are none: "
            "give their folder with --scanproof-expected=DIR"
        )
    marks = {"gpu": pytest.mark.gpu, "embedded": pytest.mark.embedded}
    parameters = [pytest.param(value, id=value.id, marks=marks[value.job.suite]) for value in loaded.values]
    metafunc.parametrize(VALUE_FIXTURE, parameters)


def published_values(session: pytest.Session) -> list[PublishedValue]:
    """The numbers whose tests were selected."""
    parameters = [getattr(item, "callspec", None) for item in session.items]
    return [each.params[VALUE_FIXTURE] for each in parameters if each is not None and VALUE_FIXTURE in each.params]


def pytest_collection_finish(session: pytest.Session) -> None:
    """Selection is done: make ready to evaluate what was selected, in whichever process runs tests."""
    config = session.config
    values = [] if config.option.collectonly else published_values(session)
    if not values:
        return
    from scanproof.session import Evaluator

    evaluator = Evaluator(lambda job: run_job(config, job), state.run_folder(config) / state.run_id(config))
    evaluator.select(values)
    config.stash[state.EVALUATOR] = evaluator
    if not state.is_worker(config):
        start_run(config, selected=len(values))


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Called by pytest-xdist in the controller before a worker starts."""
    node.workerinput["scanproof_run"] = state.run_id(node.config)


def run_job(config: pytest.Config, job: EvalJob) -> Evaluation:
    """Hand one job to whoever evaluates jobs here."""
    from scanproof.evaluation import Settings
    from scanproof.progress import ProgressLine

    given = config.stash[state.SETTINGS]
    job = replace(job, limit=job.limit if given.limit is None else given.limit)
    settings = Settings(
        store=given.store,
        mirror=options.EMBEDDED_MIRROR if job.suite == "embedded" else given.mirror,
        fresh=given.fresh,
        timeout=given.timeout,
        session=state.run_id(config),
    )
    if state.RECORDER in config.stash:
        # A job may take hours and be killed: what is known so far is on disk before it starts.
        config.stash[state.RECORDER].write(finished=False)
    evaluator = config.stash[state.EVALUATOR]
    place = f"[{len(evaluator.finished) + 1}/{len(evaluator.tasks_selected)}]"
    with ProgressLine(config, job, place) as progress:
        result: Evaluation = config.hook.pytest_scanproof_evaluate(
            config=config, job=job, settings=settings, progress=progress
        )
    return result


@pytest.hookimpl(trylast=True)
def pytest_scanproof_evaluate(
    config: pytest.Config, job: EvalJob, settings: Settings, progress: Callable[[Progress], None]
) -> Evaluation:
    """The default: lm-eval, in a worker process on this machine."""
    from scanproof import evaluation

    return evaluation.evaluate(job, settings, progress=progress)


@pytest.fixture
def scanproof_evaluation(request: pytest.FixtureRequest, scanproof_value: PublishedValue) -> Evaluation:
    """The evaluation that `scanproof_value` belongs to; it runs once for all its numbers.

    Skips, or under --scanproof-strict errors, when the machine lacks what the job needs; errors when it breaks.
    """
    from scanproof import session
    from scanproof.evaluation import EvaluationError

    config, value = request.config, scanproof_value
    missing = state.why_no_gpu(config) if value.job.device == "cuda" else None
    if missing is None:
        try:
            result: Evaluation = config.stash[state.EVALUATOR](value.job)
            return result
        except EvaluationError as error:
            problem = str(error)
            missing = error.message if error.kind == "missing" else None
    strict = config.stash[state.SETTINGS].strict
    if missing is not None and not strict:
        attach(request, session.make_record(value, request.node.nodeid, outcome=session.NOT_RUN, because=missing))
        pytest.skip(missing)
    because = problem if missing is None else f"{missing} (--scanproof-strict: not a skip)"
    attach(request, session.make_record(value, request.node.nodeid, outcome="ERROR", because=because))
    pytest.fail(f"{value.id}: not measured: {because}", pytrace=False)


@pytest.fixture
def scanproof_verdict(
    request: pytest.FixtureRequest, scanproof_value: PublishedValue, scanproof_evaluation: Evaluation
) -> Verdict:
    """The verdict on `scanproof_value`, recorded before anybody asserts on it."""
    from scanproof import derive, session

    value, evaluation = scanproof_value, scanproof_evaluation
    try:
        result = session.judge(value, evaluation, request.config.stash[state.EXPECTED].constants)
    except derive.DeriveError as error:
        attach(request, session.make_record(value, request.node.nodeid, outcome="ERROR", because=str(error)))
        pytest.fail(f"{value.id}: not measured: {error}", pytrace=False)
    attach(request, session.judged_record(value, request.node.nodeid, evaluation, result))
    return result


def attach(request: pytest.FixtureRequest, made: Record) -> None:
    """Put a record on the test's report."""
    from scanproof import record

    request.node.user_properties.append((PROPERTY, record.to_json(made).decode()))
