"""Where latencies are measured: on a GPU the installed operations, on a CPU their PyTorch forms."""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import pytest

from scanproof.kernels.latency.latency_cases import LatencyCase
from scanproof.kernels.latency.latency_verdict import DeviceLimits, Latency
from scanproof.kernels.launches import kernel_table
from scanproof.plugin import latency
from tests.support.kernel_places import Kernels, Missing, names_are_known, watched

if TYPE_CHECKING:
    from scanproof.kernels.latency.timed_calls import MakeCall
    from scanproof.kernels.latency.timing import Timer
    from scanproof.kernels.launches.launched import AutotunerChoice
    from scanproof.kernels.operation import Op

MARKS = {"gpu": [pytest.mark.gpu, pytest.mark.latency], "cpu": [pytest.mark.latency]}
KINDS = {"gpu": "cuda", "cpu": "cpu"}
MEMORY_FACTOR = 4
"""Free GPU memory that a call needs, in units of the bytes that its forward and backward pass must move: inputs are
drawn in float32, and an operation has intermediate results of its own."""
ROOM = 4
"""Inputs of all calls of a round take at most this part of the free memory."""


def parameters(rows: Iterable[LatencyCase]) -> list[Any]:
    """One test per latency; its place is a parameter, as everywhere in this folder."""
    quick = {True: [pytest.mark.quick], False: []}
    return [pytest.param(row, row.place, id=row.id, marks=MARKS[row.place] + quick[row.quick]) for row in rows]


@dataclass(frozen=True)
class Stopwatch:
    """One operation of one case, right, and ready to be timed."""

    timed: LatencyCase
    op: Op
    call: Callable[..., Any]
    kind: str
    timer: Timer
    choices: tuple[AutotunerChoice, ...]
    """What the autotuners of its kernels chose at the size that is timed."""

    def result(self, nodeid: str, repeat: int, **measured: Any) -> Latency:
        """The latency of this case, with what was measured of it."""
        from scanproof.kernels import costs
        from scanproof.kernels.latency import roofline

        case, cost = self.timed.case, costs.backward_cost if self.timed.direction == "backward" else costs.forward_cost
        work = cost(self.op, case)
        return Latency(
            id=self.timed.id,
            nodeid=nodeid,
            op=self.op.name,
            direction=self.timed.direction,
            kind=self.kind,
            device=device_name(self.kind),
            sizes=dict(case.sizes),
            dtype=case.dtype,
            repeat=repeat,
            bytes=work.bytes,
            flop=work.flop,
            rate=roofline.bounding_rate(self.op, case, self.kind),
            choices=self.choices,
            **measured,
        )

    def measure(self, benchmark: Any, seconds: float, rounds: int) -> dict[str, Any]:
        """Timing and clock, as fields of a Latency; raises NotMeasured."""
        from scanproof.kernels import costs
        from scanproof.kernels.latency import clocks, timing

        work = timing.TimedCalls(maker(self.timed, self.op, self.call, self.kind))
        if benchmark.disabled:
            work.resize(1)
            benchmark.pedantic(work)
            raise NotMeasured
        warmup = timing.make_ready(
            work, self.timer, costs.forward_cost(self.op, self.timed.case).bytes, room(self.kind)
        )
        rule = timing.StopRule(seconds=seconds, rounds=max(timing.StopRule.rounds, rounds))
        reader = clocks.make_reader(self.kind)
        found = timing.measure(benchmark, work, self.timer, rule, warmup, reader)
        return {"timing": found, "clock": timing.summarize_clock(reader), "clock_unread": reader.why_not}


class NotMeasured(Exception):
    """pytest-benchmark is disabled: the call ran once, untimed."""


def maker(timed: LatencyCase, op: Op, call: Callable[..., Any], kind: str) -> MakeCall:
    """Calls of a case in its direction."""
    from scanproof.kernels.latency import timed_calls

    make = timed_calls.prepare_backward if timed.direction == "backward" else timed_calls.prepare_forward
    return make(op, timed.case, call, kind)


def device_name(kind: str) -> str:
    """Name of the GPU or the processor."""
    if kind == "cpu":
        return platform.processor() or platform.machine()
    import torch

    return str(torch.cuda.get_device_name())


def room(kind: str) -> int:
    """Bytes that the inputs of all calls of a round may take."""
    if kind == "cpu":
        return 2**28
    from scanproof.kernels import device

    return device.free_bytes() // ROOM


@pytest.fixture
def timed_kernels(request: pytest.FixtureRequest, place: str) -> Kernels:
    """The operations of the place that a latency is measured in."""
    if place == "gpu":
        kernels: Kernels = request.getfixturevalue("kernels")
        return kernels
    from scanproof.kernels.latency import timed_calls

    return Kernels("cpu", "cpu", timed_calls.pytorch_form)


@pytest.fixture(scope="session")
def numerics() -> dict[str, str]:
    """What was found when a case was compared with its references, empty when it is right; by what was compared."""
    return {}


@pytest.fixture(scope="session")
def device_limits() -> dict[str, DeviceLimits]:
    """Limits of each kind of device, measured when they are first asked for."""
    return {}


@pytest.fixture(scope="session")
def timers() -> dict[str, Timer]:
    """One timer per kind of device: its buffer is as large as a cache, and pytest-benchmark keeps every timer."""
    from scanproof.kernels.latency import timing

    return {kind: make() for kind, make in timing.TIMERS.items()}


@pytest.fixture
def stopwatch(
    request: pytest.FixtureRequest,
    timed: LatencyCase,
    timed_kernels: Kernels,
    timers: dict[str, Timer],
    numerics: dict[str, str],
    missing: Missing,
    scanproof_repeat: int,
    scanproof_latency: Callable[[Latency], Latency],
    unmeasured: str | None,
) -> Stopwatch:
    """Stops unless the case can run here and is right: what is wrong is never timed.

    The autotuners of its kernels choose at the size that is timed; what they chose is then checked, and timed.

    pytest-benchmark's fixture, made after this one, has the timer of the place.
    """
    from scanproof.kernels import operation_table
    from scanproof.kernels.latency import tuning

    op = operation_table.find_operation(timed.case.op)
    names_are_known(op, timed.case)
    kind = KINDS[timed.place]
    call = _installed(op, timed_kernels, missing)
    _has_memory(op, timed, kind)
    choices = tuning.choose(lambda: maker(timed, op, call, kind)(0)()) if unmeasured is None else ()
    watch = Stopwatch(timed, op, call, kind, timers[kind], choices)
    wrong = _wrong(request.node, watch, numerics)
    if wrong:
        because = f"its results are wrong, and what is wrong is not timed: {wrong}"
        scanproof_latency(watch.result(request.node.nodeid, scanproof_repeat, because=because))
        pytest.fail(f"{timed.id}: {because}", pytrace=False)
    request.node.add_marker(pytest.mark.benchmark(timer=watch.timer.read, group=f"{op.name} {timed.direction}"))
    return watch


def _installed(op: Op, kernels: Kernels, missing: Missing) -> Callable[..., Any]:
    try:
        return kernels.call(op)
    except ImportError as error:
        advice = kernel_table.find_package(op.package).advice
        missing(f"{op.name} of {op.package} cannot be imported ({error}); install it: {advice}")
        raise


def _has_memory(op: Op, timed: LatencyCase, kind: str) -> None:
    if kind == "cpu":
        return
    from scanproof.kernels import costs, device

    moved = costs.forward_cost(op, timed.case).bytes
    moved += costs.backward_cost(op, timed.case).bytes if timed.direction == "backward" else 0
    needed, free = MEMORY_FACTOR * moved, device.free_bytes()
    if needed > free:
        pytest.skip(
            f"{timed.id} needs about {needed / 2**30:.1f} GiB of GPU memory ({MEMORY_FACTOR} times the "
            f"{moved / 2**30:.1f} GiB that it moves), {free / 2**30:.1f} GiB are free"
        )


def _wrong(item: pytest.Item, watch: Stopwatch, numerics: dict[str, str]) -> str:
    """What the criterion says of the case at sizes that references can take; empty when it is right.

    Asked once for all cases that differ in nothing but what the check makes smaller, and whose autotuners chose the
    same.  On a GPU it is an error when the operation did not launch its kernels; on a CPU PyTorch forms launch none.
    """
    from scanproof.kernels import compare

    timed, check = watch.timed, watch.timed.check
    known = repr((replace(check, name="", place=""), watch.choices))
    if known not in numerics:
        needed = watch.op.needed_kernels(check) if timed.place == "gpu" else ()
        try:
            with watched(item, timed.place, timed.id, needed):
                found = compare.describe_failures(check, compare.compare_case(watch.op, check, watch.call, watch.kind))
        except compare.WrongResult as error:
            found = str(error)
        numerics[known] = found
    return numerics[known]


@pytest.fixture
def limits_of(device_limits: dict[str, DeviceLimits], timers: dict[str, Timer]) -> Callable[[str], DeviceLimits]:
    """The limits of a kind of device, measured once per session."""

    def find(kind: str) -> DeviceLimits:
        if kind not in device_limits:
            from scanproof.kernels.latency import roofline

            device_limits[kind] = roofline.measure_limits(kind, timers[kind])
        return device_limits[kind]

    return find


@pytest.fixture
def unmeasured(request: pytest.FixtureRequest) -> str | None:
    """Why pytest-benchmark measures nothing in this session."""
    return latency.why_not_measured(request.config)
