"""Times an operation between two device events, so that nothing but its own work is measured.

One round: read memory until the caches hold nothing of the inputs, read the timer, call, read the timer.  On a GPU,
reading the memory also keeps the device busy while the host queues the call, so that launching costs no device time.
torch is imported inside the functions, because pytest imports this module while it collects tests.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from scanproof.kernels.latency.clocks import ClockReader
from scanproof.kernels.latency.latency_verdict import Clock, Timing, relative_noise

LONG_ENOUGH = 200e-6
"""Shortest time in seconds between two readings of the timer: 400 ticks of a device event."""
MOST_CALLS = 32
"""Largest number of calls in one round."""
STEADY = 0.1
"""When two consecutive rounds differ by no more than this, compiling and autotuning are over."""
FIT_ROUNDS = 10
"""Rounds in which the device must not wait for the host, before it is believed that it does not."""
RESERVE = 2
"""The device is kept busy this many times as long as was enough in those rounds: the host's time varies."""
LONGEST_FLUSH = 0.05
"""Longest time in seconds that the device is kept busy before a call."""
LARGEST_L2 = 2**27
"""Bytes of L2 cache that are assumed if PyTorch does not know the device's."""


class Instant(Protocol):
    """A reading of a timer."""

    def __sub__(self, earlier: Any) -> float:
        """Seconds per call since an earlier reading."""


class Timer(Protocol):
    """What a device provides for timing work on it."""

    resolution: float
    """Smallest difference of two readings, in seconds."""
    warmup: tuple[float, float]
    """Shortest and longest time of warming up, in seconds."""
    calls: int
    """Calls between two readings; a difference of two readings is divided by this."""
    waited: int
    """Rounds in which the device may have waited for the host."""

    def prepare(self) -> None:
        """Clear the caches before a round; this is not timed."""

    def read(self) -> Instant:
        """Read the timer, after all work that was queued before."""

    def fit(self, work: Callable[[], None]) -> None:
        """Adapt `prepare` so that the device is busy until the host has queued the work."""


@dataclass
class CpuInstant:
    """A reading of the processor's clock."""

    seconds: float
    timer: CpuTimer

    def __sub__(self, earlier: CpuInstant) -> float:
        return (self.seconds - earlier.seconds) / self.timer.calls


@dataclass
class CpuTimer:
    """The timer without a GPU: it reads 32 MiB to clear the caches, and the processor's clock."""

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
        """Nothing to adapt: host and device are the same."""


@dataclass
class CudaInstant:
    """A device event in the stream of the work."""

    event: Any
    timer: CudaTimer

    def __sub__(self, earlier: CudaInstant) -> float:
        # Before synchronising: if the earlier event has already happened, the device may have waited for the host.
        self.timer.waited += bool(earlier.event.query())
        self.event.synchronize()
        return float(earlier.event.elapsed_time(self.event)) / 1e3 / self.timer.calls


@dataclass
class CudaTimer:
    """The timer of a GPU: device events.  The L2 cache is flushed by reading a buffer of twice its size.

    Reading leaves clean cache lines.  Writing would leave dirty lines, and writing them back would be timed with the
    work.
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
        """Flush twice as often until the device does not wait, and then with a reserve.

        The number cannot be computed from the times of one flush and of one call: to queue a flush takes the host time
        as well, about half of what the device needs for it on an H200.
        """
        self.flushes = 1
        while True:
            rounds = [self._try_round(work) for _ in range(FIT_ROUNDS)]
            longest = max(held for held, _ in rounds)
            if longest >= LONGEST_FLUSH / RESERVE or not any(waited for _, waited in rounds):
                break
            self.flushes *= 2
        self.flushes *= RESERVE
        self.waited = 0

    def _try_round(self, work: Callable[[], None]) -> tuple[float, bool]:
        """Seconds that the device was kept busy before one round of work, and whether it may have waited then."""
        before = self.read()
        self.prepare()
        begin = self.read()
        work()
        waited = bool(begin.event.query())
        self.read().event.synchronize()
        return (begin - before) * self.calls, waited


TIMERS: Mapping[str, Callable[[], Timer]] = {"cuda": CudaTimer, "cpu": CpuTimer}


@dataclass
class TimedCalls:
    """The calls of one round, each on inputs of its own, so that no call finds its inputs in a cache."""

    make: Callable[[int], Callable[[], object]]
    """Makes a call that is ready to run, with inputs drawn from a seed."""
    calls: list[Callable[[], object]] = field(default_factory=list)

    def __call__(self) -> None:
        for call in self.calls:
            call()

    def resize(self, count: int) -> None:
        """Make calls ready, or drop some, so that there are `count`."""
        self.calls += [self.make(seed) for seed in range(len(self.calls), count)]
        del self.calls[count:]


@dataclass(frozen=True)
class StopRule:
    """Says when a measurement has enough rounds."""

    noise: float = 0.005
    """Relative standard error of the median that is small enough."""
    seconds: float = 1.0
    """Time limit, checked between blocks of rounds."""
    rounds: int = 10
    """Smallest number of rounds."""


def one_round(work: TimedCalls, timer: Timer) -> float:
    """Run and time one round; returns seconds per call."""
    timer.prepare()
    started = timer.read()
    work()
    return timer.read() - started


def warm_up(work: TimedCalls, timer: Timer) -> tuple[int, float]:
    """Run rounds until two agree and the clocks have had time to rise; returns their number and seconds per call."""
    at_least, at_most = timer.warmup
    started, rounds, last, this = time.monotonic(), 0, math.inf, math.inf
    while True:
        last, this, rounds = this, one_round(work, timer), rounds + 1
        passed = time.monotonic() - started
        if (abs(this - last) <= STEADY * this and passed >= at_least) or passed >= at_most:
            return rounds, this


def make_ready(work: TimedCalls, timer: Timer, size: int, room: int) -> int:
    """Warm up, and choose the number of calls per round; returns the number of warm-up rounds.

    Args:
        size: bytes that the inputs of one call take.
        room: bytes that the inputs of all calls together may take.
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
    """Time calls with pytest-benchmark's fixture, until the noise is small enough or the time is up.

    `benchmark.pedantic` runs the first rounds.  Further rounds are added to `benchmark.stats`, so that what
    pytest-benchmark shows, saves and compares is the whole measurement.

    Args:
        benchmark: the fixture, enabled, with `timer.read` as its timer.
        work: calls that `make_ready` has prepared.
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
    stats = benchmark.stats.stats
    return Timing(
        median=stats.median,
        q1=stats.q1,
        q3=stats.q3,
        rounds=stats.rounds,
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
    """Range and median of all readings of the clock, and why the slower half of them was held; None without any."""
    if not clocks.seen:
        return None
    speeds = [speed for speed, _ in clocks.seen]
    median = statistics.median(speeds)
    slower = [reasons for speed, reasons in clocks.seen if speed <= median]
    throttled = tuple(sorted({reason for reasons in slower for reason in reasons}))
    return Clock(lowest_mhz=min(speeds), highest_mhz=max(speeds), median_mhz=median, throttled=throttled)
