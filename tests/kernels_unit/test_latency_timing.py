"""Rounds, warm-up and stop rule, with a timer whose readings the test determines; no real clock is read."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import chain, repeat
from types import ModuleType, SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from scanproof.kernels.latency import clocks, latency_cases
from scanproof.kernels.latency.latency_verdict import Clock
from tests.support.late import Late

if TYPE_CHECKING:
    from scanproof.kernels import compare, operation_table
    from scanproof.kernels.latency import roofline, timed_calls, timing
else:
    timing, operation_table, compare = (
        Late("scanproof.kernels.latency.timing"),
        Late("scanproof.kernels.operation_table"),
        Late("scanproof.kernels.compare"),
    )
    timed_calls, roofline = Late("scanproof.kernels.latency.timed_calls"), Late("scanproof.kernels.latency.roofline")


@dataclass
class ScriptedInstant:
    """A reading of the scripted timer."""

    timer: ScriptedTimer

    def __sub__(self, earlier: ScriptedInstant) -> float:
        self.timer.differences += 1
        return next(self.timer.durations) / self.timer.calls


@dataclass
class ScriptedTimer:
    """A timer: each difference of two readings is the next of `durations`, divided by the calls."""

    durations: Iterator[float]
    resolution: float = 0.0
    warmup: tuple[float, float] = (0.0, math.inf)
    calls: int = 1
    waited: int = 0
    prepared: int = 0
    differences: int = 0
    fitted: list[int] = field(default_factory=list)

    def prepare(self) -> None:
        self.prepared += 1

    def read(self) -> ScriptedInstant:
        return ScriptedInstant(self)

    def fit(self, work: Any) -> None:
        self.fitted.append(len(work.calls))


def work(log: list[int]) -> Any:
    made = timing.TimedCalls(lambda seed: lambda: log.append(seed))
    made.resize(1)
    return made


def test_warming_up_ends_when_two_rounds_agree() -> None:
    timer = ScriptedTimer(chain([31.0, 0.9, 0.1, 0.08, 0.081], repeat(0.08)))
    rounds, seconds = timing.warm_up(work([]), timer)
    assert (rounds, seconds) == (5, 0.081)


def test_a_timer_that_never_agrees_ends_with_the_time() -> None:
    timer = ScriptedTimer(iter(float(2**n) for n in range(1000)), warmup=(0.0, 0.0))
    assert timing.warm_up(work([]), timer)[0] == 1


@pytest.mark.parametrize(
    ("seconds", "room", "calls"),
    [(1e-3, 10**9, 1), (200e-6, 10**9, 1), (20e-6, 10**9, 10), (1e-9, 10**9, 32), (20e-6, 300, 3), (20e-6, 10, 1)],
)
def test_short_calls_share_a_round_as_far_as_memory_goes(seconds: float, room: int, calls: int) -> None:
    log: list[int] = []
    timer, job = ScriptedTimer(repeat(seconds)), work(log)
    timing.make_ready(job, timer, size=100, room=room)
    assert timer.calls == len(job.calls) == calls
    assert timer.fitted == [calls]
    log.clear()
    job()
    # Each call has inputs of its own.
    assert log == list(range(calls))


def noisy(spread: float) -> Iterator[float]:
    """Durations around 1 ms."""
    while True:
        yield from (1e-3, 1e-3 * (1 + spread), 1e-3 * (1 - spread), 1e-3 * (1 + spread / 2), 1e-3 * (1 - spread / 2))


def benchmark_with(request: pytest.FixtureRequest, timer: ScriptedTimer) -> Any:
    """pytest-benchmark's fixture with this timer; enabled, because a disabled one keeps no rounds."""
    request.node.add_marker(pytest.mark.benchmark(timer=timer.read))
    benchmark = request.getfixturevalue("benchmark")
    if benchmark.disabled:
        pytest.skip("pytest-benchmark is disabled here")
    return benchmark


@pytest.mark.latency
@pytest.mark.parametrize(("spread", "rounds"), [(0.0, (11, 11)), (0.05, (30, 400))])
def test_rounds_are_added_until_the_noise_is_small(
    request: pytest.FixtureRequest, spread: float, rounds: tuple[int, int]
) -> None:
    timer, log = ScriptedTimer(noisy(spread)), []  # type: ignore[var-annotated]
    benchmark = benchmark_with(request, timer)
    found = timing.measure(benchmark, work(log), timer, timing.StopRule(seconds=math.inf), 3, clocks.ClockReader())
    assert found.stopped == "noise"
    assert found.noise <= 0.005
    assert rounds[0] <= found.rounds <= rounds[1]
    assert found.median == pytest.approx(1e-3, rel=0.03)
    assert found.warmup_rounds == 3
    # Every round was prepared and called once, and pytest-benchmark has its time.
    assert timer.prepared == timer.differences == len(log) == len(benchmark.stats.stats.data) == found.rounds


@pytest.mark.latency
def test_a_loud_operation_is_stopped_by_the_time(request: pytest.FixtureRequest) -> None:
    timer = ScriptedTimer(noisy(0.5))
    benchmark = benchmark_with(request, timer)
    found = timing.measure(benchmark, work([]), timer, timing.StopRule(seconds=0.0), 1, clocks.ClockReader())
    assert found.stopped == "time"
    assert found.noise > 0.005
    assert found.rounds == 11


@dataclass
class Event:
    """Stands in for a device event: whether it has happened, and its time in ms."""

    ms: float
    happened: bool
    waited_for: int = 0

    def query(self) -> bool:
        return self.happened

    def synchronize(self) -> None:
        self.waited_for += 1

    def elapsed_time(self, later: Event) -> float:
        return later.ms - self.ms


@pytest.mark.parametrize("happened", [False, True])
def test_device_events_give_seconds_per_call_and_tell_when_the_device_may_have_waited(happened: bool) -> None:
    timer = timing.CudaTimer(calls=4)
    begin, end = Event(1.0, happened), Event(3.0, happened=False)
    assert timing.CudaInstant(end, timer) - timing.CudaInstant(begin, timer) == pytest.approx(0.5e-3)
    assert end.waited_for == 1
    assert timer.waited == int(happened)


@dataclass
class Stream:
    """A GPU that works through what the host has queued; times in seconds."""

    to_launch: float
    """Of the host, for one call."""
    to_call: float
    """Of the device, for one call."""
    host: float = 0.0
    device: float = 0.0

    def queue(self, launching: float, working: float) -> None:
        self.host += launching
        self.device = max(self.device, self.host) + working

    def call(self) -> None:
        self.queue(self.to_launch, self.to_call)


@dataclass
class StreamEvent:
    """An event of such a GPU."""

    stream: Stream
    seconds: float

    def query(self) -> bool:
        return self.seconds <= self.stream.host

    def synchronize(self) -> None:
        self.stream.host = max(self.stream.host, self.seconds)

    def elapsed_time(self, later: StreamEvent) -> float:
        return 1e3 * (later.seconds - self.seconds)


@dataclass
class StreamTimer(timing.CudaTimer):
    """The timer of a GPU on such a stream: a flush takes the device 28 us and the host 12 us."""

    stream: Stream = field(default_factory=lambda: Stream(0.0, 0.0))

    def prepare(self) -> None:
        for _ in range(self.flushes):
            self.stream.queue(12e-6, 28e-6)

    def read(self) -> timing.CudaInstant:
        self.stream.queue(2e-6, 0.0)
        return timing.CudaInstant(StreamEvent(self.stream, self.stream.device), self)


@pytest.mark.parametrize(("to_launch", "to_call", "calls"), [(35e-6, 3e-6, 32), (10e-6, 3.6e-6, 32), (2e-4, 8e-4, 1)])
def test_the_device_is_kept_busy_until_the_host_has_queued_the_calls(
    to_launch: float, to_call: float, calls: int
) -> None:
    """On an H200, decode steps that take 3 us were timed as the 35 us that the host takes to launch one."""
    stream = Stream(to_launch, to_call)
    timer = StreamTimer(calls=calls, stream=stream)
    job = timing.TimedCalls(lambda seed: stream.call)
    job.resize(calls)
    timer.fit(job)
    assert [timing.one_round(job, timer) for _ in range(20)] == [pytest.approx(to_call, rel=0.1)] * 20
    assert timer.waited == 0


def test_where_the_host_is_too_slow_for_any_flush_the_device_is_seen_to_wait() -> None:
    stream = Stream(to_launch=0.1, to_call=1e-3)
    timer, job = StreamTimer(stream=stream), timing.TimedCalls(lambda seed: stream.call)
    job.resize(1)
    timer.fit(job)
    assert timer.flushes * 28e-6 <= 2 * timing.LONGEST_FLUSH
    timing.one_round(job, timer)
    assert timer.waited == 1


def test_reasons_to_hold_a_clock_down_are_told_from_others() -> None:
    assert clocks.throttle_reasons(0x1) == ()
    assert clocks.throttle_reasons(0x2 | 0x10) == ()
    assert clocks.throttle_reasons(0x4 | 0x40) == ("software power cap", "hardware thermal slowdown")


def test_what_was_seen_of_a_clock_is_its_range_and_why_its_slower_half_was_held() -> None:
    slow = [(1410.0, ("hardware thermal slowdown",)), (1500.0, ("software power cap",))]
    seen = iter([(1980.0, ("hardware power brake",)), *slow])
    reader = clocks.ClockReader(lambda: next(seen))
    for _ in range(3):
        reader.read()
    found = timing.summarize_clock(reader)
    assert found is not None
    assert (found.lowest_mhz, found.median_mhz, found.highest_mhz) == (1410.0, 1500.0, 1980.0)
    assert found.throttled == ("hardware thermal slowdown", "software power cap")
    assert timing.summarize_clock(clocks.ClockReader()) is None
    assert clocks.make_reader("cpu").why_not == "not read on a processor"


class Pynvml(ModuleType):
    """Stands in for NVIDIA's library: it answers a number of times, then the driver refuses."""

    NVML_CLOCK_SM = 1

    class NVMLError(Exception):
        pass

    def __init__(self, answers: int) -> None:
        super().__init__("pynvml")
        self.answers, self.asked = answers, 0

    def nvmlInit(self) -> None:
        pass

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> str:
        assert uuid == "GPU-6f2a"
        return uuid

    def nvmlDeviceGetClockInfo(self, handle: str, which: int) -> int:
        self.asked += 1
        if self.asked > self.answers:
            raise self.NVMLError("GPU is lost")
        return 1980

    def nvmlDeviceGetCurrentClocksThrottleReasons(self, handle: str) -> int:
        return 0x4


def reader_of(monkeypatch: pytest.MonkeyPatch, answers: int) -> tuple[clocks.ClockReader, Pynvml]:
    import torch

    library = Pynvml(answers)
    monkeypatch.setitem(sys.modules, "pynvml", library)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(uuid="6f2a"))
    return clocks.make_reader("cuda"), library


@pytest.mark.latency
def test_a_clock_that_can_no_longer_be_read_does_not_end_the_measurement(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader, library = reader_of(monkeypatch, answers=3)
    timer = ScriptedTimer(noisy(0.05))
    benchmark = benchmark_with(request, timer)
    found = timing.measure(benchmark, work([]), timer, timing.StopRule(seconds=60.0), 3, reader)
    assert found.rounds >= 30
    # One answer when the reader was made, two during the measurement, one refusal, and then no more questions.
    assert library.asked == 4
    assert timing.summarize_clock(reader) == Clock(
        lowest_mhz=1980.0, highest_mhz=1980.0, median_mhz=1980.0, throttled=("software power cap",)
    )
    assert reader.why_not == "not read: GPU is lost"


def test_a_clock_that_cannot_be_read_at_all_leaves_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    reader, library = reader_of(monkeypatch, answers=0)
    reader.read()
    assert (timing.summarize_clock(reader), reader.why_not, library.asked) == (None, "not read: GPU is lost", 1)


CPU = [each for each in latency_cases.load() if each.place == "cpu"]


@pytest.mark.parametrize("timed", CPU, ids=lambda timed: timed.id)
def test_what_is_timed_is_the_operation_in_its_direction(timed: latency_cases.LatencyCase) -> None:
    op = operation_table.find_operation(timed.case.op)
    form = timed_calls.pytorch_form(op)
    make = timed_calls.prepare_backward if timed.direction == "backward" else timed_calls.prepare_forward
    returned: Any = make(op, timed.case, form, "cpu")(0)()
    expected = compare.run_op(op, timed.case, compare.draw_inputs(op, timed.case), form)
    names = [name for name in expected if name.startswith("grad of ")] if timed.direction == "backward" else [
        each.name for each in op.expected_outputs(timed.case) if each.name not in op.changes
    ]  # fmt: skip
    assert len(returned) == len(names)
    for value, name in zip(returned, names, strict=True):
        assert value.shape == expected[name].shape
        assert timed.direction == "backward" or value.equal(expected[name])


def test_limits_do_not_depend_on_the_calls_of_the_case_before() -> None:
    found = roofline.measure_limits("cpu", ScriptedTimer(repeat(1.0), calls=32))
    assert found.bytes_per_s == 2 * roofline.COPY_BYTES["cpu"]
    assert found.flop_per_s == {"float32": 2.0 * roofline.PRODUCT["cpu"] ** 3}
