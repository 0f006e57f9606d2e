"""The pytest plugin's hooks.  They decide nothing themselves, and import nothing heavy."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

from scanproof.kernels.latency.latency_verdict import REPEATS
from scanproof.plugin import broken_device, latency, options, own_process
from scanproof.plugin import session as sessions
from scanproof.plugin.controller import Controller, start_run
from scanproof.plugin.session import session_of

if TYPE_CHECKING:
    from scanproof.evaluation.process import Progress
    from scanproof.evaluation.request import Settings
    from scanproof.numbers.values import EvalJob, PublishedValue
    from scanproof.record import Evaluation

pytest_plugins = (
    "scanproof.plugin.fixtures",
    "scanproof.plugin.kernel_fixtures",
    "scanproof.plugin.latency_fixtures",
)
"""pytest loads these modules, with their fixtures and hooks, together with this one."""
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
    session = sessions.start(config)
    plugins = config.pluginmanager
    if not plugins.hasplugin("benchmark"):
        from scanproof.plugin import no_benchmark

        plugins.register(no_benchmark, "scanproof-without-benchmark")
    plugins.register(broken_device.BrokenDevice(), "scanproof-broken-device")
    if session.parent is None:
        plugins.register(own_process.OwnProcesses(session), "scanproof-own-processes")
    if not session.is_worker:
        latency.check_options(session)
        plugins.register(Controller(session), "scanproof-controller")
        plugins.register(latency.Latencies(session), "scanproof-latencies")


@pytest.hookimpl(tryfirst=True)
def pytest_sessionstart(session: pytest.Session) -> None:
    """Read the user's expected values before anything is collected, so that a mistake in them is a usage error.

    Those that scanproof ships are read only when a test asks for them.
    """
    ours = session_of(session.config)
    if ours.settings.expected not in (None, options.PACKAGED_EXPECTED):
        _ = ours.expected


@pytest.hookimpl(trylast=True)
def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """One test per published number; numbers of one evaluation stand together.  One per repeat of a recording."""
    session = session_of(metafunc.config)
    if latency.REPEAT_FIXTURE in metafunc.fixturenames and session.settings.record_latency:
        repeats = range(1, REPEATS + 1)
        metafunc.parametrize(latency.REPEAT_FIXTURE, repeats, ids=[f"repeat{number}" for number in repeats])
    if VALUE_FIXTURE not in metafunc.fixturenames:
        return
    if session.settings.expected is None:
        raise pytest.UsageError(
            f"{metafunc.definition.nodeid} asks for published numbers, but there are none: "
            "give their folder with --scanproof-expected=DIR"
        )
    marks = {"gpu": pytest.mark.gpu, "embedded": pytest.mark.embedded}
    parameters = [
        pytest.param(value, id=value.id, marks=pytest.mark.unrecorded if value.unrecorded else marks[value.job.suite])
        for value in session.expected.numbers
    ]
    metafunc.parametrize(VALUE_FIXTURE, parameters)


def selected_values(session: pytest.Session) -> list[PublishedValue]:
    """The published numbers whose tests were selected."""
    parameters = [item.callspec.params for item in session.items if hasattr(item, "callspec")]
    return [given[VALUE_FIXTURE] for given in parameters if VALUE_FIXTURE in given]


def pytest_collection_finish(session: pytest.Session) -> None:
    """Selection is done: make ready to evaluate what was selected, in whichever process runs tests."""
    values = [] if session.config.option.collectonly else selected_values(session)
    if not values:
        return
    from scanproof.plugin import jobs

    ours = session_of(session.config)
    jobs.prepare_jobs(ours, values)
    if not ours.is_worker:
        start_run(ours, selected=len(values))


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Called by pytest-xdist in the controller before a worker starts."""
    node.workerinput["scanproof_run"] = session_of(node.config).run_id


@pytest.hookimpl(trylast=True)
def pytest_scanproof_evaluate(
    config: pytest.Config, job: EvalJob, settings: Settings, progress: Callable[[Progress], None]
) -> Evaluation:
    """The default: lm-eval, in a worker process on this machine, if the job fits on it."""
    from scanproof.evaluation import evaluate_job
    from scanproof.evaluation.planning import placement

    placed = placement.place(job, session_of(config).expected.tasks)
    return evaluate_job.evaluate(placed, settings, progress=progress)
