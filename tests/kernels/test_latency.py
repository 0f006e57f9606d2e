"""How long every operation takes, beside this device's own baseline and limits.  What is wrong is never timed."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

from scanproof.kernels.latency.latency_cases import LatencyCase, load
from scanproof.kernels.latency.latency_verdict import DeviceLimits, Latency
from scanproof.numbers.verdict.outcome import LatencyOutcome
from tests.support.kernel_places import table
from tests.support.latency_places import NotMeasured, Stopwatch, parameters

if TYPE_CHECKING:
    from tests.support.kernel_places import Missing


@pytest.mark.parametrize(("timed", "place"), parameters(table(load)))
def test_latency(
    request: pytest.FixtureRequest,
    timed: LatencyCase,
    stopwatch: Stopwatch,
    benchmark: Any,
    limits_of: Callable[[str], DeviceLimits],
    scanproof_repeat: int,
    scanproof_latency: Callable[[Latency], Latency],
    unmeasured: str | None,
    missing: Missing,
) -> None:
    from scanproof.report import latency_text

    given, nodeid = request.config.option, request.node.nodeid
    try:
        fields = stopwatch.measure(benchmark, float(given.benchmark_max_time), int(given.benchmark_min_rounds))
    except NotMeasured:
        scanproof_latency(stopwatch.result(nodeid, scanproof_repeat, because=unmeasured))
        missing(f"latency was not measured: {unmeasured}")
        return
    limits = limits_of(stopwatch.kind)
    found = scanproof_latency(stopwatch.result(nodeid, scanproof_repeat, limits=limits, **fields))
    benchmark.extra_info.update(latency_text.figures(found))
    if found.outcome == LatencyOutcome.SLOWER.value:
        pytest.fail(latency_text.failure_text(found), pytrace=False)
