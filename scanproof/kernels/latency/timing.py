"""The timer: device events between which an operation's own work lies, and nothing else.

One round is: read memory until the caches hold nothing of the inputs, read the timer, call, read the timer.  On a GPU
the reading before the call also keeps the device busy while the host queues the call, so that launching costs no
device time.  Imports torch where it is used: the suite names these classes while it is collected.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from scanproof.kernels.latency.clocks import ClockReader
from scanproof.kernels.latency.latency_verdict import Clock, Timing, relative_noise

LONG_ENOUGH = 200e-6
"""Seconds between two readings of the timer, at least: 400 ticks of a device event."""
MOST_CALLS = 32
STEADY = 0.1
"""Two consecutive rounds that differ by no more are past compiling and autotuning."""
HOST_SHARE = 1.5
"""How much longer than the host needs to queue a call the device is kept busy before it."""
LONGEST_FLUSH = 0.05
LARGEST_L2 = 2**27
"""Bytes; where PyTorch does not know the size of the device's."""


class Instant(Protocol):
    """A reading of a timer."""

    def __sub__(self, earlier: Any) -> float:
        """Seconds per call since an earlier reading."""


class Timer(Protocol):
    """What a device offers to time it."""

    resolution: float
    """Seconds."""
    warmup: tuple[float, float]
    """Seconds that warming up takes at least and at most."""
    calls: int
    """Calls between two readings; a difference of readings is divided by it."""
    waited: int
    """Rounds in which the device may have waited for the host."""

    def prepare(self) -> None:
        """What precedes a round and is no part of it."""

    def read(self) -> Instant:
        """A reading; what is queued before it is before it."""

    def fit(self, work: Callable[[], None]) -> None:
        """Adapt `prepare` to how long the host takes to queue the work."""


@dataclass
class CpuInstant:
    """A reading of the processor's clock."""

    seconds: float
    timer: CpuTimer

    def __sub__(self, earlier: CpuInstant) -> float:
        return (self.seconds - earlier.seconds) / self.timer.calls


@dataclass
class CpuTimer:
    """The same path without a GPU: a flush of 32 MiB, and the processor's clock."""

    resolution: float = 1e-7
    warmup: tuple[float, float] = (0.01, 0.5)
    calls: int = 1
    waited: int = 0
    buffer: Any = field(default=None, repr=False)

    def prepare(self) -> None:
        import torch

        if self.buffer is None:
            self.buffer = torch.zeros(2**23)
        self.buffer.sum()

    def read(self) -> CpuInstant:
        return CpuInstant(time.perf_counter(), self)

    def fit(self, work: Callable[[], None]) -> None:
        """There is nobody to wait for."""


@dataclass
class CudaInstant:
    """A device event in the stream of the work."""

    event: Any
    timer: CudaTimer

    def __sub__(self, earlier: CudaInstant) -> float:
        # Asked before synchronising: had the device begun the work when the host was still queueing it?
        self.timer.waited += bool(earlier.event.query())
        self.event.synchronize()
        return float(earlier.event.elapsed_time(self.event)) / 1e3 / self.timer.calls


@dataclass
class CudaTimer:
    """Device events; the L2 cache is flushed by reading a buffer twice its size.

    Reading leaves clean lines.  Writing would leave dirty ones, and to write those back would be part of the work.
    """

    resolution: float = 0.5e-6
    warmup: tuple[float, float] = (0.2, 120.0)
    calls: int = 1
    waited: int = 0
    flushes: int = 1
    buffer: Any = field(default=None, repr=False)

    def prepare(self) -> None:
        import torch

        if self.buffer is None:
            size = getattr(torch.cuda.get_device_properties("cuda"), "L2_cache_size", LARGEST_L2)
            self.buffer = torch.zeros(2 * size // 4, device="cuda")
        for _ in range(self.flushes):
            self.buffer.sum()

    def read(self) -> CudaInstant:
        import torch

        event: Any = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record()
        return CudaInstant(event, self)

    def fit(self, work: Callable[[], None]) -> None:
        import torch

        self.flushes = 1
        before = self.read()
        self.prepare()
        flush = (self.read() - before) * self.calls
        torch.cuda.synchronize()
        started = time.perf_counter()
        work()
        host = time.perf_counter() - started
        torch.cuda.synchronize()
        self.flushes = max(1, math.ceil(min(HOST_SHARE * host, LONGEST_FLUSH) / flush))
        self.waited = 0


TIMERS: Mapping[str, Callable[[], Timer]] = {"cuda": CudaTimer, "cpu": CpuTimer}


@dataclass
class TimedCalls:
    """The calls between two readings, each on inputs of its own: none finds its inputs in a cache."""

    make: Callable[[int], Callable[[], object]]
    """From a seed to a call that is ready to run."""
    calls: list[Callable[[], object]] = field(default_factory=list)

    def __call__(self) -> None:
        for call in self.calls:
            call()

    def resize(self, count: int) -> None:
        """Make that many calls ready."""
        self.calls += [self.make(seed) for seed in range(len(self.calls), count)]
        del self.calls[count:]


@dataclass(frozen=True)
class StopRule:
    """When a measurement has enough rounds."""

    noise: float = 0.005
    """Relative standard error of the median."""
    seconds: float = 1.0
    """Time limit, checked between blocks of rounds."""
    rounds: int = 10
    """At least so many."""


def one_round(work: TimedCalls, timer: Timer) -> float:
    """Seconds per call."""
    timer.prepare()
    started = timer.read()
    work()
    return timer.read() - started


def warm_up(work: TimedCalls, timer: Timer) -> tuple[int, float]:
    """Run rounds until two agree and the clocks have had time to rise; their number, and seconds per call."""
    at_least, at_most = timer.warmup
    started, rounds, last, this = time.monotonic(), 0, math.inf, math.inf
    while True:
        last, this, rounds = this, one_round(work, timer), rounds + 1
        passed = time.monotonic() - started
        if (abs(this - last) <= STEADY * this and passed >= at_least) or passed >= at_most:
            return rounds, this


def make_ready(work: TimedCalls, timer: Timer, size: int, room: int) -> int:
    """Warm up, and choose how many calls a round has; the number of warm-up rounds.

    Args:
        size: bytes that the inputs of one call take.
        room: bytes that all inputs may take.
    """
    timer.calls = 1
    work.resize(1)
    rounds, seconds = warm_up(work, timer)
    timer.calls = max(1, min(MOST_CALLS, math.ceil(LONG_ENOUGH / seconds), room // max(size, 1)))
    work.resize(timer.calls)
    timer.fit(work)
    more, _ = warm_up(work, timer)
    timer.waited = 0
    return rounds + more


def measure(
    benchmark: Any, work: TimedCalls, timer: Timer, rule: StopRule, warmup_rounds: int, clocks: ClockReader
) -> Timing:
    """Time a work that is ready through pytest-benchmark's fixture, until its noise is small or its time is up.

    Its `pedantic` runs the first rounds; rounds that the noise asks for join them in `benchmark.stats`, so that all
    that pytest-benchmark shows, saves and compares is the whole measurement.

    Args:
        benchmark: enabled, made with `timer.read` as its timer.
        clocks: read once per block of rounds.
    """
    started = time.monotonic()
    benchmark.pedantic(work, setup=timer.prepare, rounds=rule.rounds)
    durations: list[float] = benchmark.stats.stats.data
    while True:
        look_at_clock(work, timer, clocks)
        for _ in range(max(1, len(durations) // 10)):
            benchmark.stats.update(one_round(work, timer))
        noise = relative_noise(durations, timer.resolution / timer.calls)
        if noise <= rule.noise or time.monotonic() - started >= rule.seconds:
            break
    kept = benchmark.stats.stats
    return Timing(
        median=kept.median,
        q1=kept.q1,
        q3=kept.q3,
        rounds=kept.rounds,
        calls=timer.calls,
        noise=noise,
        stopped="noise" if noise <= rule.noise else "time",
        warmup_rounds=warmup_rounds,
        waited=timer.waited,
    )


def look_at_clock(work: TimedCalls, timer: Timer, clocks: ClockReader) -> None:
    """Read the clock while the device works on a round that is not timed."""
    if clocks.ask is not None:
        timer.prepare()
        work()
        clocks.read()


def summarize_clock(clocks: ClockReader) -> Clock | None:
    """What was read of the clock meanwhile; None where nothing could be."""
    if not clocks.seen:
        return None
    speeds = [speed for speed, _ in clocks.seen]
    reasons = tuple(sorted({reason for _, found in clocks.seen for reason in found}))
    return Clock(lowest_mhz=min(speeds), highest_mhz=max(speeds), throttled=reasons)
