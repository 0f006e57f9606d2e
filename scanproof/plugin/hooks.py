"""The pytest plugin's hooks.  They decide nothing themselves, and import nothing heavy."""

from __future__ import annotations

import sys
from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Any

import pytest

from scanproof.kernels.latency.latency_verdict import REPEATS
from scanproof.plugin import (
    broken_device,
    kernel_evidence,
    latency,
    listing,
    options,
    own_process,
    own_source,
    refusals,
    reports,
    selected_numbers,
    strict_session,
    typed_selection,
)
from scanproof.plugin import session as sessions
from scanproof.plugin.controller import Controller, ends_with_zero
from scanproof.plugin.selected_numbers import VALUE_FIXTURE
from scanproof.plugin.session import session_of

if TYPE_CHECKING:
    from scanproof.evaluation.process import Progress
    from scanproof.evaluation.request import Settings
    from scanproof.numbers.values import EvalJob
    from scanproof.record import Evaluation

pytest_plugins = (
    "scanproof.plugin.fixtures",
    "scanproof.plugin.kernel_fixtures",
    "scanproof.plugin.latency_fixtures",
)
"""pytest loads these modules, with their fixtures, together with this one; nothing imports them before it does."""
CONTROLLER = "scanproof-controller"
"""Name of the part of the plugin that decides whether the session is green."""
EXIT_CODE = "scanproof-exit-code"
"""Name of the part of the plugin that ends the process with what was decided."""


def pytest_addoption(parser: pytest.Parser) -> None:
    options.add_options(parser)


def pytest_addhooks(pluginmanager: pytest.PytestPluginManager) -> None:
    from scanproof.plugin import hookspecs

    pluginmanager.add_hookspecs(hookspecs)


class ExitCode:
    """What the controller decided is what the process ends with, whatever ran after it."""

    def __init__(self) -> None:
        self.controller: Controller | None = None
        """Kept here, because anybody may take it from the plugin manager; None until the session is configured."""

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_cmdline_main(self, config: pytest.Config) -> Generator[None, Any, Any]:
        """Overrule a hook that returns 0, and one that ends the process with it."""
        code: Any
        try:
            code = yield
        except SystemExit as ended:
            if not ends_with_zero(ended.code):
                raise
            code = pytest.ExitCode.OK
        if self.controller is not None:
            kept = self.controller.keep_exit_code(code)
        elif listing.lists_only(config) or sessions.is_worker(config) or not options.asks_for_strict(config):
            kept = code
        else:
            # It ended before this plugin was configured.
            kept = pytest.ExitCode.TESTS_FAILED if ends_with_zero(code) else code
        if kept != code:
            sys.stderr.write(
                f"scanproof: not green: a plugin or a conftest.py ended the session with 0, not {int(kept)}\n"
            )
        return kept


@pytest.hookimpl(wrapper=True)
def pytest_load_initial_conftests(early_config: pytest.Config) -> Generator[None]:
    """Note whether strict was asked for before a conftest.py can change it.

    What is registered last is asked first: after every conftest.py that pytest reads before it begins.
    """
    early_config.stash[options.ASKED_FOR_STRICT] = options.asks_for_strict(early_config)
    try:
        yield
    except SystemExit as ended:
        if not ends_with_zero(ended.code) or not options.asks_for_strict(early_config):
            raise
        raise pytest.UsageError("scanproof: a conftest.py ended the process with 0 before its session began") from None
    register(early_config.pluginmanager, ExitCode(), EXIT_CODE)


def pytest_configure(config: pytest.Config) -> None:
    for line in (
        "gpu: needs an NVIDIA GPU; published numbers and kernels as they are installed",
        "unrecorded: numbers that nobody printed, to be measured once and written by `scanproof record`; on a GPU",
        "embedded: runs on the stand-ins that scanproof ships; no GPU, no hub",
        "quick: kernel cases and latencies of every operation that together take minutes on a GPU: -m 'gpu and quick'",
        "latency: measures how long an operation takes, through pytest-benchmark",
        "provider: cases of an operation on the CPU, by a named function or by another package's form",
        "interpreted: Triton kernels on the CPU, in an environment of their own: tox -e interpreted",
        "own_process(name): runs in a process of its own, or in one for all tests of that name, which may die",
    ):
        config.addinivalue_line("markers", line)
    if not sessions.is_worker(config):
        # Before options are checked: a session that they end has no page and no JUnit file either.
        reports.retire_page(config)
        reports.retire_junit(config)
        listing.refuse_listing(config)
    session = sessions.start(config)
    plugins = config.pluginmanager
    if not plugins.hasplugin("benchmark"):
        from scanproof.plugin import no_benchmark

        plugins.register(no_benchmark, "scanproof-without-benchmark")
    register(plugins, broken_device.BrokenDevice(), "scanproof-broken-device")
    register(plugins, refusals.Refusals(), "scanproof-refusals")
    if session.settings.strict:
        register(plugins, own_source.JudgeWatch(), own_source.WATCH)
    if session.parent is None:
        register(plugins, own_process.OwnProcesses(session), "scanproof-own-processes")
        if session.settings.strict:
            register(plugins, strict_session.StrictSelection(config), strict_session.SELECTION)
    if not session.is_worker:
        latency.check_options(session)
        controller = Controller(session, lists_only=listing.lists_only(config))
        register(plugins, controller, CONTROLLER)
        if (exit_code := plugins.getplugin(EXIT_CODE)) is not None:
            exit_code.controller = controller
        register(plugins, latency.Latencies(session), latency.LATENCIES)


def register(plugins: pytest.PytestPluginManager, part: object, name: str) -> None:
    """Register a part of this plugin; raises pytest.UsageError where it is switched off: the others prove nothing."""
    if plugins.register(part, name) is None:
        raise pytest.UsageError(f"scanproof: -p no:{name} switches off a part of the plugin; -p no:scanproof all of it")


@pytest.hookimpl(tryfirst=True)
def pytest_sessionstart(session: pytest.Session) -> None:
    """Check the selection and read the user's expected values before anything is collected: usage errors end it here.

    Those that scanproof ships are read only when a test asks for them.
    """
    ours = session_of(session.config)
    # Here, after every hook that configures: a conftest.py may have added to the options.
    if ours.settings.strict and not ours.is_worker and not listing.lists_only(session.config):
        typed_selection.refuse_untyped(session.config)
    if ours.settings.expected not in (None, options.PACKAGED_EXPECTED):
        _ = ours.expected
    _ = ours.providers


def pytest_itemcollected(item: pytest.Item) -> None:
    kernel_evidence.note_kernel_test(item)


@pytest.hookimpl(wrapper=True, trylast=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Generator[None, Any, Any]:
    """Innermost, so that no other plugin comes before."""
    kernel_evidence.note_error(item, call)
    return (yield)


@pytest.hookimpl(wrapper=True, trylast=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> Generator[None, Any, Any]:
    """Innermost as well: a plugin may catch what the test raises, and no report would know."""
    try:
        return (yield)
    except BaseException as error:
        kernel_evidence.note_raised(pyfuncitem, "call", type(error).__name__)
        raise


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
    refuse_other_parameters(metafunc)
    parameters = [
        pytest.param(value, id=value.id, marks=pytest.mark.unrecorded if value.unrecorded else marks[value.job.suite])
        for value in session.expected.numbers
    ]
    metafunc.parametrize(VALUE_FIXTURE, parameters)


def refuse_other_parameters(metafunc: pytest.Metafunc) -> None:
    """A number is known by the end of its test's id, also where pytest-xdist hands on nothing but ids."""
    arguments = {name for call in metafunc._calls for name in call.params}
    if arguments:
        raise pytest.Collector.CollectError(
            f"scanproof: {metafunc.definition.nodeid}: the test of a published number has no other parameters; leave "
            f"out {', '.join(sorted(arguments))}, or write a test of its own for each"
        )


@pytest.hookimpl(tryfirst=True)
def pytest_collection_finish(session: pytest.Session) -> None:
    """Selection is done: make ready to evaluate what was selected, in whichever process runs tests.

    First, because pytest-xdist hands on the ids of a worker here, and they are read with what is left beside them.
    """
    if session.config.option.collectonly:
        return
    ours = session_of(session.config)
    if ours.settings.strict and not ours.is_worker:
        # Once more: a hook may have set an option since the session began.
        typed_selection.refuse_untyped(session.config)
    numbers = selected_numbers.list_numbers(session)
    selected_numbers.hand_on(session.config, numbers)
    if not numbers:
        return
    from scanproof.plugin import jobs

    ours.numbers = {nodeid: value.id for nodeid, value in numbers.items()}
    jobs.prepare_jobs(ours, list(numbers.values()))


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Called by pytest-xdist in the controller before a worker starts."""
    session = session_of(node.config)
    node.workerinput["scanproof_run"] = session.run_id
    session.handover.announce(node)


@pytest.hookimpl(trylast=True)
def pytest_scanproof_evaluate(
    config: pytest.Config, job: EvalJob, settings: Settings, progress: Callable[[Progress], None]
) -> Evaluation:
    """The default: lm-eval, in a worker process on this machine, if the job fits on it."""
    from scanproof.evaluation import evaluate_job
    from scanproof.evaluation.planning import placement

    placed = placement.place(job, session_of(config).expected.tasks)
    return evaluate_job.evaluate(placed, settings, progress=progress)
