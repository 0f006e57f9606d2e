"""What one latency is and what is said of it: noise, share of the limit, verdict.  Pure arithmetic.

Times are seconds per call.  Differences are logarithms of ratios, so that twice as slow and twice as fast are as far
from the baseline.  Why these rules: docs/decisions/0006-latency.md.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from scanproof.kernels.launches.launched import AutotunerChoice
from scanproof.numbers.verdict.outcome import LatencyOutcome

FEWEST_REPEATS = 5
"""Independent passes over all cases that a baseline is made of, at least."""
REPEATS = 7
"""As many as a recording makes: with five, Student's t lets only twice as large a change be called slower."""
RELEVANT = 0.03
"""Smallest relative change that matters; a smaller one is never called slower."""
COMPARISONS = 400
"""Latencies that are compared in one night, at most."""
FALSE_ALARM = 0.01 / COMPARISONS
"""Chance that one case of an unchanged kernel is called slower: 1 of 100 nights has any, over all comparisons."""
SAME_MISSED = 0.05
"""Chance that a case that changed by RELEVANT is called the same."""


@dataclass(frozen=True, kw_only=True)
class Timing:
    """How long a call takes, over the rounds of one measurement."""

    median: float
    q1: float
    q3: float
    rounds: int
    calls: int
    """Calls between two readings of the timer, each with inputs of its own; the times are per call."""
    noise: float
    """Relative standard error of the median."""
    stopped: str
    """`noise`: it was small enough; `time`: the limit of time came first."""
    warmup_rounds: int
    waited: int = 0
    """Rounds in which the device may have waited for the host, so that launching is part of the time."""


@dataclass(frozen=True, kw_only=True)
class DeviceLimits:
    """What a device can do, measured in the same session."""

    bytes_per_s: float
    """A large copy: bytes read plus bytes written."""
    flop_per_s: Mapping[str, float]
    """dtype of the operands, or `tf32` -> a large matrix product."""


@dataclass(frozen=True, kw_only=True)
class Clock:
    """The SM clock while a case was measured."""

    lowest_mhz: float
    highest_mhz: float
    throttled: tuple[str, ...] = ()
    """Why the driver held the clock down, in its own words."""


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """What the autotuners chose for a case, and in which repeats."""

    repeats: tuple[int, ...]
    """From 1."""
    choices: tuple[AutotunerChoice, ...]


@dataclass(frozen=True, kw_only=True)
class LatencyBaseline:
    """What a case took when it was recorded."""

    seconds: tuple[float, ...]
    """Median of each repeat."""
    clock_mhz: float | None = None
    """Lowest SM clock seen."""
    chosen: tuple[Chosen, ...] = ()
    """Empty where nothing is tuned, and in files that do not hold it."""
    source: str = ""
    """The file, when and with what it was recorded."""

    @property
    def typical(self) -> float:
        """Geometric mean of the repeats."""
        return math.exp(statistics.fmean(map(math.log, self.seconds)))

    @property
    def noise(self) -> float:
        """Relative standard deviation between repeats."""
        return statistics.stdev(map(math.log, self.seconds))


@dataclass(frozen=True, kw_only=True)
class LatencyVerdict:
    """A measurement beside its baseline."""

    outcome: LatencyOutcome
    ratio: float
    """Measured over baseline."""
    called: float
    """A relative change beyond this is called slower or faster."""
    because: str


@dataclass(frozen=True, kw_only=True)
class Latency:
    """One latency of one session."""

    id: str
    nodeid: str
    op: str
    direction: str
    """`forward` or `backward`."""
    kind: str
    """`cuda` or `cpu`."""
    device: str
    """Name of the device."""
    sizes: Mapping[str, int] = field(default_factory=dict)
    dtype: str = ""
    repeat: int = 0
    """Which repeat of a recording, from 1; 0 in a session that records no baseline."""
    outcome: str = LatencyOutcome.NO_BASELINE.value
    because: str = ""
    timing: Timing | None = None
    """None where nothing was measured."""
    bytes: int = 0
    """What must move."""
    flop: float = 0.0
    """What must be done."""
    limits: DeviceLimits | None = None
    rate: str = ""
    """Which of the limits' rates the arithmetic is held to."""
    clock: Clock | None = None
    """None where it was not read."""
    clock_unread: str = ""
    """Why not, or not to the end."""
    choices: tuple[AutotunerChoice, ...] = ()
    """What the autotuners of its kernels chose, at the size that was timed; empty where nothing is tuned."""
    baseline: LatencyBaseline | None = None
    verdict: LatencyVerdict | None = None

    @property
    def floor(self) -> float | None:
        """Seconds below which no version can run on this device; None without limits."""
        if self.limits is None:
            return None
        return max(self.bytes / self.limits.bytes_per_s, self.flop / self.limits.flop_per_s[self.rate])

    @property
    def share(self) -> float | None:
        """Floor over measured: 1 is the limit."""
        return None if self.floor is None or self.timing is None else self.floor / self.timing.median

    @property
    def bound_by(self) -> str:
        """The limit that counts: `memory` or `arithmetic`."""
        assert self.limits is not None
        moving = self.bytes / self.limits.bytes_per_s
        return "memory" if moving >= self.flop / self.limits.flop_per_s[self.rate] else "arithmetic"


def relative_noise(durations: Sequence[float], resolution: float = 0.0) -> float:
    """Relative standard error of the median of at least two durations.

    1.2533 sigma / sqrt(n) for normal rounds, sigma from the quartiles, so that a few rounds that something
    interrupted do not count.  What the timer cannot resolve is added: rounds that all fall on one tick agree, and are
    still off by up to half a tick.

    Args:
        durations: seconds per call, positive.
        resolution: of the timer, seconds per call.
    """
    low, _, high = statistics.quantiles(durations, n=4)
    sampling = math.sqrt(math.pi / 2 / len(durations)) * (high - low) / 1.349
    return math.hypot(sampling, resolution / math.sqrt(12)) / statistics.median(durations)


def judge(baseline: LatencyBaseline, measured: float, noise: float, clock: Clock | None = None) -> LatencyVerdict:
    """Compare a median with a baseline, by the noise of both.

    The difference of an unchanged kernel is one more draw from what the repeats were drawn from, known from few of
    them, plus the measurement's own noise: Student's t with one degree of freedom less than there are repeats.
    SLOWER or FASTER beyond both RELEVANT and the t interval for FALSE_ALARM; SAME where the interval for SAME_MISSED
    lies within RELEVANT; AMBIGUOUS otherwise, and where a throttled clock explains what is slower.

    Args:
        measured: seconds per call, a median.
        noise: its relative standard error.
        clock: the SM clock meanwhile, None where it was not read.
    """
    difference = math.log(measured / baseline.typical)
    repeats, relevant = len(baseline.seconds), math.log1p(RELEVANT)
    spread = math.hypot(baseline.noise * math.sqrt(1 + 1 / repeats), noise)
    called = max(relevant, _quantile(1 - FALSE_ALARM, repeats - 1) * spread)
    throttled = _explained(difference - relevant, baseline, clock)
    if difference > called and throttled:
        outcome, because = LatencyOutcome.AMBIGUOUS, throttled
    elif abs(difference) > called:
        outcome = LatencyOutcome.SLOWER if difference > 0 else LatencyOutcome.FASTER
        because = f"more than {math.expm1(called):.1%} from the baseline"
    elif abs(difference) + _quantile(1 - SAME_MISSED, repeats - 1) * spread <= relevant:
        outcome, because = LatencyOutcome.SAME, f"within {RELEVANT:.0%} of the baseline"
    else:
        outcome, because = LatencyOutcome.AMBIGUOUS, _undecided(baseline.noise, noise, called)
    return LatencyVerdict(outcome=outcome, ratio=math.exp(difference), called=math.expm1(called), because=because)


def _quantile(probability: float, freedom: int) -> float:
    from scipy import stats

    return float(stats.t.ppf(probability, freedom))


def _explained(excess: float, baseline: LatencyBaseline, clock: Clock | None) -> str:
    """Why a throttled clock accounts for what is beyond RELEVANT; empty when it does not."""
    if clock is None or not clock.throttled or baseline.clock_mhz is None:
        return ""
    if excess > math.log(max(1.0, baseline.clock_mhz / clock.lowest_mhz)):
        return ""
    return (
        f"the clock was held at {clock.lowest_mhz:.0f} MHz ({', '.join(clock.throttled)}), "
        f"{baseline.clock_mhz:.0f} MHz in the baseline, which explains the difference: run again on a cool device"
    )


def _undecided(between: float, own: float, called: float) -> str:
    """What would decide."""
    noisier = "the baseline's repeats differ" if between > own else "this measurement is noisy"
    remedy = "record the baseline again on a quiet device" if between > own else "run again on a quiet device"
    return (
        f"noise hides a change of {RELEVANT:.0%}; one beyond {math.expm1(called):.1%} would be called; "
        f"{noisier} by {max(between, own):.2%}: {remedy}"
    )
