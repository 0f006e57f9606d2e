"""Fixtures of latencies: on a GPU of the installed operations and their providers, on a CPU of PyTorch forms."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from scanproof.plugin import latency
from scanproof.plugin.kernel_evidence import PROVIDER_FIXTURE
from scanproof.plugin.kernel_fixtures import (
    PLACE_FIXTURE,
    CannotRun,
    Kernels,
    Missing,
    fail_on_unknown_names,
    import_or_stop,
    watch_launches,
)
from scanproof.plugin.providers import watch_provider
from scanproof.plugin.session import session_of

if TYPE_CHECKING:
    from scanproof.kernels.latency.latency_cases import LatencyCase
    from scanproof.kernels.latency.latency_verdict import DeviceLimits, Latency
    from scanproof.kernels.latency.stopwatch import Stopwatch
    from scanproof.kernels.latency.timing import Timer
    from scanproof.kernels.providers.provider import Provider
    from scanproof.plugin.providers import Provided

LATENCY_CASE_FIXTURE = "scanproof_latency_case"
DEVICE_KINDS = {"gpu": "cuda", "cpu": "cpu"}
"""Place -> kind of device."""
CheckLatency = Callable[["LatencyCase"], None]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """One test per latency."""
    if LATENCY_CASE_FIXTURE not in metafunc.fixturenames:
        return
    from scanproof.kernels.latency import latency_cases
    from scanproof.plugin.kernel_parameters import latency_parameters, load_table

    session = session_of(metafunc.config)
    named = None if session.settings.record_latency else session.providers
    parameters = latency_parameters(load_table(latency_cases.load), named)
    metafunc.parametrize((LATENCY_CASE_FIXTURE, PLACE_FIXTURE, PROVIDER_FIXTURE), parameters)


@pytest.fixture
def scanproof_latency_case(scanproof_place: str) -> LatencyCase:
    """One call to time: a test with this argument runs once for every latency."""
    raise AssertionError("the plugin makes a parameter of it")


@pytest.fixture
def scanproof_timed_kernels(
    request: pytest.FixtureRequest, scanproof_place: str, scanproof_provider: Provider | None
) -> Kernels:
    """The operations of the place that a latency is measured in."""
    if scanproof_place == "gpu" or scanproof_provider is not None:
        kernels: Kernels = request.getfixturevalue("scanproof_kernels")
        return kernels
    from scanproof.kernels.latency import timed_calls

    return Kernels("cpu", "cpu", timed_calls.pytorch_form)


@pytest.fixture(scope="session")
def scanproof_timers() -> dict[str, Timer]:
    """One timer per kind of device: its buffer is as large as a cache, and pytest-benchmark keeps every timer."""
    from scanproof.kernels.latency import timing

    return {kind: make() for kind, make in timing.TIMERS.items()}


@pytest.fixture(scope="session")
def scanproof_numerics() -> dict[str, str]:
    """Why the results of a case are wrong, by what was compared; an empty text when they are right."""
    return {}


@pytest.fixture(scope="session")
def scanproof_limits(scanproof_timers: dict[str, Timer]) -> Callable[[str], DeviceLimits]:
    """Called with a kind of device: its limits, measured once per session."""
    measured: dict[str, DeviceLimits] = {}

    def find(kind: str) -> DeviceLimits:
        if kind not in measured:
            from scanproof.kernels.latency import roofline

            measured[kind] = roofline.measure_limits(kind, scanproof_timers[kind])
        return measured[kind]

    return find


@pytest.fixture
def scanproof_unmeasured(request: pytest.FixtureRequest) -> str | None:
    """Why pytest-benchmark measures nothing in this session; None when it does."""
    return latency.why_not_measured(session_of(request.config))


@pytest.fixture
def scanproof_stopwatch(
    request: pytest.FixtureRequest,
    scanproof_latency_case: LatencyCase,
    scanproof_provider: Provider | None,
    scanproof_timed_kernels: Kernels,
    scanproof_timers: dict[str, Timer],
    scanproof_numerics: dict[str, str],
    scanproof_missing: Missing,
    scanproof_cannot_run: CannotRun,
    scanproof_repeat: int,
    scanproof_latency: Callable[[Latency], Latency],
    scanproof_unmeasured: str | None,
) -> Stopwatch:
    """Stops the test unless the case can run here and its results are right: what is wrong is never timed.

    The autotuners of its kernels choose at the size that is timed; what they chose is then checked, and timed.
    pytest-benchmark's fixture, which has to be made after this one, gets the timer of the place.
    """
    from scanproof.kernels import operation_table
    from scanproof.kernels.latency import tuning
    from scanproof.kernels.latency.stopwatch import Stopwatch, calls_of, why_no_memory
    from scanproof.numbers.verdict.outcome import LatencyOutcome

    timed, kernels = scanproof_latency_case, scanproof_timed_kernels
    op = operation_table.find_operation(timed.case.op)
    fail_on_unknown_names(op, timed.case)
    kind = DEVICE_KINDS[timed.place]
    call, provided = import_or_stop(op, kernels, scanproof_missing), kernels.provided
    if scanproof_provider is not None and provided is None:
        pytest.fail(f"{timed.id}: what gives scanproof_timed_kernels here gives no {scanproof_provider.title}", False)
    if provided is not None:
        if (reason := provided.provider.why_cannot(timed.case)) is not None:
            scanproof_cannot_run(f"{provided.provider.title}: {reason}")
        # Without what counts its calls.
        call = provided.provider.bind(provided.watch.target)
    if kind != "cpu" and (lack := why_no_memory(timed, op)):
        because, never = lack
        stop = scanproof_cannot_run if never else scanproof_missing
        stop(because)
    tune = scanproof_unmeasured is None
    choices = tuning.choose(lambda: calls_of(timed, op, call, kind)(0)()) if tune else ()
    title = provided.provider.title if provided is not None else ""
    stopwatch = Stopwatch(timed, op, call, kind, scanproof_timers[kind], choices, title)
    wrong = find_wrong_results(request.node, stopwatch, scanproof_numerics, provided)
    if wrong:
        because = f"its results are wrong, and what is wrong is not timed: {wrong}"
        wrong_result = LatencyOutcome.WRONG.value
        scanproof_latency(
            stopwatch.result(request.node.nodeid, scanproof_repeat, because=because, outcome=wrong_result)
        )
        pytest.fail(f"{stopwatch.id}: {because}", pytrace=False)
    request.node.add_marker(pytest.mark.benchmark(timer=stopwatch.timer.read, group=f"{op.name} {timed.direction}"))
    return stopwatch


def find_wrong_results(
    item: pytest.Item, stopwatch: Stopwatch, numerics: dict[str, str], provided: Provided | None = None
) -> str:
    """What the criterion says of the case at sizes that references can take; empty when the results are right.

    Asked once for all cases that differ in nothing but what the check makes smaller, and whose autotuners chose the
    same.  On a GPU it is an error when the operation did not launch its kernels; on a CPU PyTorch forms launch none.
    """
    from scanproof.kernels import compare

    timed, check, op = stopwatch.timed, stopwatch.timed.check, stopwatch.op
    compared = repr((replace(check, name="", place=""), stopwatch.choices, stopwatch.provider))
    if compared not in numerics:
        needed = op.needed_kernels(check) if timed.place == "gpu" else ()
        watched = watch_launches(item, timed.place, timed.id, needed)
        if provided is not None:
            watched = watch_provider(item, provided, stopwatch.id)
        try:
            with watched:
                call = stopwatch.call if provided is None else provided.function
                comparisons = compare.compare_case(op, check, call, stopwatch.kind)
                wrong = compare.describe_failures(check, comparisons)
        except compare.WrongResult as error:
            wrong = str(error)
        numerics[compared] = wrong
    return numerics[compared]


@pytest.fixture
def scanproof_check_latency(
    request: pytest.FixtureRequest,
    scanproof_stopwatch: Stopwatch,
    benchmark: Any,
    scanproof_limits: Callable[[str], DeviceLimits],
    scanproof_repeat: int,
    scanproof_latency: Callable[[Latency], Latency],
    scanproof_unmeasured: str | None,
    scanproof_missing: Missing,
) -> CheckLatency:
    """Called with `scanproof_latency_case`: times it and compares it with this device's baseline, if there is one.

    The test fails when the operation became slower than noise explains, and skips where nothing is measured.
    """

    def check(timed: LatencyCase) -> None:
        from scanproof.kernels.latency.stopwatch import NotMeasured
        from scanproof.numbers.verdict.outcome import LatencyOutcome
        from scanproof.report import latency_text

        given, nodeid = request.config.option, request.node.nodeid
        seconds, rounds = float(given.benchmark_max_time), int(given.benchmark_min_rounds)
        if timed.id != scanproof_stopwatch.timed.id:
            pytest.fail(f"this test is for {scanproof_stopwatch.timed.id}, not for {timed.id}", pytrace=False)
        try:
            measured = scanproof_stopwatch.measure(benchmark, seconds, rounds)
        except NotMeasured:
            scanproof_latency(scanproof_stopwatch.result(nodeid, scanproof_repeat, because=scanproof_unmeasured))
            scanproof_missing(f"latency was not measured: {scanproof_unmeasured}")
            return
        limits = scanproof_limits(scanproof_stopwatch.kind)
        judged = scanproof_latency(scanproof_stopwatch.result(nodeid, scanproof_repeat, limits=limits, **measured))
        benchmark.extra_info.update(latency_text.benchmark_figures(judged))
        if judged.outcome == LatencyOutcome.NOT_MEASURED.value:
            scanproof_missing(f"latency was not judged: {judged.because}")
        if judged.outcome == LatencyOutcome.SLOWER.value:
            pytest.fail(latency_text.failure_text(judged), pytrace=False)

    return check
