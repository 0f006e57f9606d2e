"""The pytest plugin: options, markers, fixtures and hook glue.  No logic, and nothing heavy is imported."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

from scanproof.kernels.latency.latency_verdict import REPEATS
from scanproof.plugin import broken_device, latency, options, own_process, stash
from scanproof.plugin.controller import PROPERTY, Controller, start_run

if TYPE_CHECKING:
    from scanproof.evaluation.evaluate_job import Progress, Settings
    from scanproof.kernels.latency.latency_verdict import Latency
    from scanproof.numbers.values import EvalJob, PublishedValue
    from scanproof.numbers.verdict.paired_tests import Finding
    from scanproof.numbers.verdict.tolerance import Verdict
    from scanproof.record import Evaluation, Record

VALUE_FIXTURE = "scanproof_value"
"""A test with this argument runs once for every published number."""


def pytest_addoption(parser: pytest.Parser) -> None:
    options.add_options(parser)


def pytest_addhooks(pluginmanager: pytest.PytestPluginManager) -> None:
    from scanproof.plugin import hookspecs

    pluginmanager.add_hookspecs(hookspecs)


def pytest_configure(config: pytest.Config) -> None:
    for line in (
        "gpu: needs an NVIDIA GPU; published numbers and kernels as they are installed",
        "unrecorded: numbers that nobody printed, to be measured once and written by `scanproof record`; on a GPU",
        "embedded: runs on the stand-ins that scanproof ships; no GPU, no hub",
        "quick: kernel cases and latencies of every operation that together take minutes on a GPU: -m 'gpu and quick'",
        "latency: measures how long an operation takes, through pytest-benchmark",
        "interpreted: mamba-ssm's Triton kernels on the CPU, in an environment of their own: tox -e interpreted",
        "own_process(name): runs in a process of its own, or in one for all tests of that name, which may die",
    ):
        config.addinivalue_line("markers", line)
    config.stash[stash.SETTINGS] = options.read_settings(config)
    if not config.pluginmanager.hasplugin("benchmark"):
        from scanproof.plugin import no_benchmark

        config.pluginmanager.register(no_benchmark, "scanproof-without-benchmark")
    config.pluginmanager.register(broken_device.BrokenDevice(), "scanproof-broken-device")
    if stash.OWN_PROCESS not in config.stash:
        config.pluginmanager.register(own_process.OwnProcesses(config), "scanproof-own-processes")
    if not stash.is_worker(config):
        latency.check_options(config)
        config.pluginmanager.register(Controller(config), "scanproof-controller")
        config.pluginmanager.register(latency.Latencies(config), "scanproof-latencies")


@pytest.hookimpl(tryfirst=True)
def pytest_sessionstart(session: pytest.Session) -> None:
    """Read the user's expected values before anything is collected, so that a mistake in them is a usage error.

    Those that scanproof ships are read only when a test asks for them.
    """
    if session.config.stash[stash.SETTINGS].expected != options.PACKAGED_EXPECTED:
        stash.expected_values(session.config)


@pytest.hookimpl(trylast=True)
def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """One test per published number; numbers of one evaluation stand together.  One per repeat of a recording."""
    if latency.REPEAT_FIXTURE in metafunc.fixturenames and metafunc.config.stash[stash.SETTINGS].record_latency:
        repeats = range(1, REPEATS + 1)
        metafunc.parametrize(latency.REPEAT_FIXTURE, repeats, ids=[f"repeat{number}" for number in repeats])
    if VALUE_FIXTURE not in metafunc.fixturenames:
        return
    loaded = stash.expected_values(metafunc.config)
    if loaded is None:
        raise pytest.UsageError(
            f"{metafunc.definition.nodeid} asks for published numbers, but there are none: "
            "give their folder with --scanproof-expected=DIR"
        )
    marks = {"gpu": pytest.mark.gpu, "embedded": pytest.mark.embedded}
    parameters = [
        pytest.param(value, id=value.id, marks=pytest.mark.unrecorded if value.unrecorded else marks[value.job.suite])
        for value in loaded.numbers
    ]
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
    from scanproof.plugin import jobs

    jobs.make_ready(config, values)
    if not stash.is_worker(config):
        start_run(config, selected=len(values))


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Called by pytest-xdist in the controller before a worker starts."""
    node.workerinput["scanproof_run"] = stash.run_id(node.config)


@pytest.hookimpl(trylast=True)
def pytest_scanproof_evaluate(
    config: pytest.Config, job: EvalJob, settings: Settings, progress: Callable[[Progress], None]
) -> Evaluation:
    """The default: lm-eval, in a worker process on this machine, if the job fits on it."""
    from scanproof.evaluation import evaluate_job
    from scanproof.evaluation.planning import placement

    placed = placement.place(job, config.stash[stash.EXPECTED].tasks)
    return evaluate_job.evaluate(placed, settings, progress=progress)


@pytest.fixture
def scanproof_evaluation(request: pytest.FixtureRequest, scanproof_value: PublishedValue) -> Evaluation:
    """The evaluation that `scanproof_value` belongs to; it runs once for all its numbers.

    Skips, or under --scanproof-strict errors, when the machine lacks what the job needs; errors when it breaks.
    """
    from scanproof.evaluation.evaluate_job import EvaluationError
    from scanproof.numbers.verdict.outcome import Outcome
    from scanproof.plugin import run_recorder

    config, value = request.config, scanproof_value
    broken: EvaluationError | None = None
    missing = stash.why_no_gpu(config) if value.job.device == "cuda" else None
    if missing is None:
        try:
            result: Evaluation = config.stash[stash.EVALUATOR](value.job)
            return result
        except EvaluationError as error:
            broken, problem = error, str(error)
            missing = error.message if error.kind == "missing" else None
    strict = config.stash[stash.SETTINGS].strict
    if missing is not None and not strict:
        attach(
            request,
            run_recorder.make_record(value, request.node.nodeid, outcome=Outcome.NOT_RUN.value, because=missing),
        )
        pytest.skip(missing)
    because = problem if missing is None else f"{missing} (--scanproof-strict: not a skip)"
    kept = run_recorder.make_record(value, request.node.nodeid, outcome=Outcome.ERROR.value, because=because)
    attach(request, kept)
    reason = triage_lines(config, kept, error=broken) if broken is not None else []
    pytest.fail("\n".join([f"{value.id}: not measured: {because}", *reason]), pytrace=False)


@pytest.fixture
def scanproof_gate(
    request: pytest.FixtureRequest, scanproof_value: PublishedValue, scanproof_evaluation: Evaluation
) -> Finding | None:
    """`scanproof_value` against its baseline, document by document; None where it has no baseline."""
    return stash.second_gate(request.config).finding(scanproof_value, scanproof_evaluation)


@pytest.fixture
def scanproof_verdict(
    request: pytest.FixtureRequest,
    scanproof_value: PublishedValue,
    scanproof_evaluation: Evaluation,
    scanproof_gate: Finding | None,
) -> Verdict:
    """The verdict of both gates on `scanproof_value`, recorded before anybody asserts on it.

    Where plain measured again, it is plain's, and says what the other engine had.
    """
    from scanproof.history import second_gate
    from scanproof.numbers.verdict import derive
    from scanproof.numbers.verdict.outcome import Outcome
    from scanproof.plugin import run_recorder

    value, evaluation = scanproof_value, scanproof_evaluation
    try:
        result = run_recorder.judge(value, evaluation, request.config.stash[stash.EXPECTED].constants)
    except derive.DeriveError as error:
        attach(
            request,
            run_recorder.make_record(value, request.node.nodeid, outcome=Outcome.ERROR.value, because=str(error)),
        )
        pytest.fail(f"{value.id}: not measured: {error}", pytrace=False)
    result = second_gate.with_finding(result, scanproof_gate)
    result = second_gate.with_engines(result, stash.second_gate(request.config).engines(value, evaluation))
    attach(request, run_recorder.judged_record(value, request.node.nodeid, evaluation, result, scanproof_gate))
    return result


@pytest.fixture
def scanproof_triage(
    request: pytest.FixtureRequest, scanproof_value: PublishedValue, scanproof_evaluation: Evaluation
) -> Callable[[Verdict, Finding | None], list[str]]:
    """Why `scanproof_value` failed, in lines for its message, as far as that costs little; never raises."""

    def look(verdict: Verdict, found: Finding | None) -> list[str]:
        from scanproof.plugin import run_recorder

        kept = run_recorder.judged_record(scanproof_value, request.node.nodeid, scanproof_evaluation, verdict, found)
        return triage_lines(request.config, kept, scanproof_evaluation)

    return look


def triage_lines(
    config: pytest.Config, kept: Record, evaluation: Evaluation | None = None, error: Exception | None = None
) -> list[str]:
    """What triage says of a number that has just failed."""
    from scanproof.errors import EvaluationError
    from scanproof.triage import message
    from scanproof.triage.evidence import Broken

    broken = None
    if isinstance(error, EvaluationError):
        broken = Broken(kind=error.kind, message=error.message, last_words=error.last_words, log=error.log)
    runs = stash.earlier_runs(config)
    return message.lines(stash.run_id(config), runs, kept, evaluation, broken, config.stash[stash.EXPECTED])


@pytest.fixture
def scanproof_repeat() -> int:
    """Which repeat this is while baselines are recorded, from 1; 0 otherwise."""
    return 0


@pytest.fixture
def scanproof_latency(request: pytest.FixtureRequest) -> Callable[[Latency], Latency]:
    """Judge a latency by the baseline of its device and record it, before anybody asserts on it."""
    from scanproof import files
    from scanproof.kernels.latency import baseline_files
    from scanproof.report import junit

    def judge(measured: Latency) -> Latency:
        try:
            found = latency.judged(request.config, measured)
        except baseline_files.BaselineError as error:
            pytest.fail(str(error), pytrace=False)
        request.node.user_properties.append((latency.PROPERTY, files.to_json(found).decode()))
        request.node.user_properties.extend(junit.of_latency(found))
        return found

    return judge


def attach(request: pytest.FixtureRequest, made: Record) -> None:
    """Put a record on the test's report, whole for the controller, and in parts for who reads the JUnit file."""
    from scanproof import files
    from scanproof.report import junit

    request.node.user_properties.append((PROPERTY, files.to_json(made).decode()))
    request.node.user_properties.extend(junit.of_number(made))
