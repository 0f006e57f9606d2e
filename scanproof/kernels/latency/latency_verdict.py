"""A latency, its noise, its share of the device's limit, and the verdict against a baseline.  Pure arithmetic.

Times are seconds per call.  Differences are logarithms of ratios, so that twice as slow and twice as fast are equally
far from the baseline.  docs/decisions/0006-latency.md gives the reasons for these rules.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from scanproof.kernels.launches.launched import AutotunerChoice
from scanproof.numbers.verdict.outcome import LatencyOutcome

FEWEST_REPEATS = 5
"""A baseline is made of at least this many independent passes over all cases."""
REPEATS = 7
"""Passes that a recording makes.  With five, by Student's t, a change has to be twice as large to be called slower."""
RELEVANT = 0.03
"""Smallest relative change that matters; a smaller change is never called slower or faster."""
COMPARISONS = 400
"""Largest number of latencies that are compared in one night."""
FALSE_ALARM = 0.01 / COMPARISONS
"""Probability that one case of an unchanged kernel is called slower: over all comparisons, this happens in 1 of 100
nights."""
SAME_MISSED = 0.05
"""Probability that a case that changed by RELEVANT is called the same."""
MOST_CALLED = 1.0
"""Where the noise would hide a kernel that takes twice as long, a case is not judged."""
MOST_APART = 10.0
"""Repeats of one kernel differ by no larger factor; nor does a kernel become faster by one.

Of eight recordings on two busy cores, the slowest repeat of a case took 1.06 to 5.0 times as long as the fastest.
"""
MOST_BELOW_FLOOR = 8.0
"""No call is faster than the device's limits allow by a larger factor.

Of 145 latencies on two busy cores, whose limits were too low by as much as others used the cores, the largest share of
the limit was 5.7.
"""


@dataclass(frozen=True, kw_only=True)
class Timing:
    """How long a call takes, over the rounds of one measurement; times in seconds per call."""

    median: float
    q1: float
    q3: float
    rounds: int
    calls: int
    """Calls in one round, between two readings of the timer; each call has inputs of its own."""
    noise: float
    """Relative standard error of the median."""
    stopped: str
    """Why the measurement ended: `noise` (the noise was small enough) or `time` (the time limit was reached)."""
    warmup_rounds: int
    waited: int = 0
    """Rounds in which the device may have waited for the host, so that their time includes launching the kernels."""


@dataclass(frozen=True, kw_only=True)
class DeviceLimits:
    """The limits of a device, measured in the same session."""

    bytes_per_s: float
    """Of a large copy: bytes read plus bytes written."""
    flop_per_s: Mapping[str, float]
    """dtype of the operands, or `tf32` -> rate of a large matrix product."""


@dataclass(frozen=True, kw_only=True)
class Clock:
    """The SM clock while a case was measured."""

    lowest_mhz: float
    highest_mhz: float
    throttled: tuple[str, ...] = ()
    """The driver's reasons for holding the clock down in the slower half of the readings; empty if there were none."""
    median_mhz: float | None = None
    """Median of the readings; None in runs until November 2026."""


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """What the autotuners chose for a case, and the repeats that chose it."""

    repeats: tuple[int, ...]
    """Numbers of the repeats, from 1."""
    choices: tuple[AutotunerChoice, ...]


@dataclass(frozen=True, kw_only=True)
class LatencyBaseline:
    """How long a case took when its baseline was recorded."""

    seconds: tuple[float, ...]
    """Median of each repeat, in seconds per call."""
    clock_mhz: float | None = None
    """Lowest SM clock that was read."""
    median_mhz: float | None = None
    """Lowest median of the SM clock in a repeat; None in files until November 2026."""
    chosen: tuple[Chosen, ...] = ()
    """Empty for cases without an autotuner, and in older files."""
    source: str = ""
    """The file, and when and with which versions it was recorded."""

    @property
    def typical(self) -> float:
        """Geometric mean of the repeats, in seconds per call."""
        return math.exp(statistics.fmean(map(math.log, self.seconds)))

    @property
    def noise(self) -> float:
        """Relative standard deviation between the repeats."""
        return statistics.stdev(map(math.log, self.seconds))


@dataclass(frozen=True, kw_only=True)
class LatencyVerdict:
    """What the comparison of a measurement with its baseline says."""

    outcome: LatencyOutcome
    ratio: float
    """Measured time divided by the baseline's."""
    called: float
    """Relative change beyond which the case is called slower or faster."""
    because: str
    """The reason for the outcome."""


@dataclass(frozen=True, kw_only=True)
class Latency:
    """One latency of one session: the case, the measurement and the verdict."""

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
    provider: str = ""
    """Who was timed in place of the installed package, which alone has baselines; the id ends with it."""
    repeat: int = 0
    """Number of the repeat in a recording, from 1; 0 in a session that records no baseline."""
    outcome: str = LatencyOutcome.NO_BASELINE.value
    because: str = ""
    timing: Timing | None = None
    """None where nothing was measured."""
    bytes: int = 0
    """Bytes that the call must move."""
    flop: float = 0.0
    """FLOP that the call must do."""
    limits: DeviceLimits | None = None
    rate: str = ""
    """The key of `limits.flop_per_s` that bounds the arithmetic."""
    clock: Clock | None = None
    """None if the clock was not read."""
    clock_unread: str = ""
    """Why the clock was not read, or not to the end."""
    choices: tuple[AutotunerChoice, ...] = ()
    """What the autotuners of its kernels chose for the size that was timed; empty if there are none."""
    baseline: LatencyBaseline | None = None
    verdict: LatencyVerdict | None = None

    @property
    def case(self) -> str:
        """The id of the case that was timed, the same for all providers."""
        return self.id.removesuffix(f"-{self.provider}") if self.provider else self.id

    @property
    def floor(self) -> float | None:
        """Seconds that any implementation needs on this device at least; None if there are no limits."""
        if self.limits is None:
            return None
        return max(self.bytes / self.limits.bytes_per_s, self.flop / self.limits.flop_per_s[self.rate])

    @property
    def share(self) -> float | None:
        """The floor divided by the measured time: 1 is the device's limit.  None if one of the two is missing."""
        return None if self.floor is None or self.timing is None else self.floor / self.timing.median

    @property
    def bound_by(self) -> str:
        """The limit that determines the floor: `memory` or `arithmetic`."""
        assert self.limits is not None
        moving = self.bytes / self.limits.bytes_per_s
        return "memory" if moving >= self.flop / self.limits.flop_per_s[self.rate] else "arithmetic"


def relative_noise(durations: Sequence[float], resolution: float = 0.0) -> float:
    """Relative standard error of the median of at least two durations.

    For normally distributed rounds this is 1.2533 sigma / sqrt(n); sigma is estimated from the quartiles, so that a few
    interrupted rounds do not matter.  The timer's resolution is added: rounds that all fall on the same tick agree,
    but may still be wrong by up to half a tick.

    Args:
        durations: seconds per call, positive.
        resolution: of the timer, seconds per call.
    """
    low, _, high = statistics.quantiles(durations, n=4)
    sampling = math.sqrt(math.pi / 2 / len(durations)) * (high - low) / 1.349
    return math.hypot(sampling, resolution / math.sqrt(12)) / statistics.median(durations)


def why_the_host_was_timed(timing: Timing) -> str:
    """Why a measurement is more of the host's launching than of the operation; empty where it is of the operation."""
    if 2 * timing.waited <= timing.rounds:
        return ""
    return (
        f"in {timing.waited} of {timing.rounds} rounds the device may have waited for the host to launch the call: "
        "run it where other programs leave the processors alone"
    )


def judge(baseline: LatencyBaseline, measured: float, noise: float, clock: Clock | None = None) -> LatencyVerdict:
    """Compare a median with a baseline, by the noise of both.

    For an unchanged kernel, the difference is one more sample from the distribution of the repeats, plus the
    measurement's own noise.  That distribution is known from few repeats only, so the difference follows Student's t
    with one degree of freedom less than there are repeats.

    - SLOWER or FASTER: the difference is beyond both RELEVANT and the t interval for FALSE_ALARM.
    - NOT_MEASURED: it is slower, and a throttled clock explains it; or it is not, but that interval is so wide that it
      would hide a change of MOST_CALLED.
    - SAME: the t interval for SAME_MISSED around the difference lies within RELEVANT.
    - AMBIGUOUS: anything else.

    Args:
        measured: seconds per call, a median.
        noise: its relative standard error.
        clock: the SM clock during the measurement; None if it was not read.
    """
    difference = math.log(measured / baseline.typical)
    repeats, relevant = len(baseline.seconds), math.log1p(RELEVANT)
    spread = math.hypot(baseline.noise * math.sqrt(1 + 1 / repeats), noise)
    called = max(relevant, _quantile(1 - FALSE_ALARM, repeats - 1) * spread)
    throttled = _explain_by_clock(difference - relevant, baseline, clock)
    beyond = f"more than {math.expm1(called):.1%} from the baseline"
    if difference > called and not throttled:
        outcome, because = LatencyOutcome.SLOWER, beyond
    elif called > math.log1p(MOST_CALLED):
        outcome, because = LatencyOutcome.NOT_MEASURED, _explain_unjudged(baseline.noise, noise)
    elif difference > called:
        # A kernel as much slower would pass on every night with such a clock.
        outcome, because = LatencyOutcome.NOT_MEASURED, throttled
    elif difference < -called:
        outcome, because = LatencyOutcome.FASTER, beyond
    elif abs(difference) + _quantile(1 - SAME_MISSED, repeats - 1) * spread <= relevant:
        outcome, because = LatencyOutcome.SAME, f"within {RELEVANT:.0%} of the baseline"
    else:
        outcome, because = LatencyOutcome.AMBIGUOUS, _explain_ambiguity(baseline.noise, noise, called)
    return LatencyVerdict(outcome=outcome, ratio=math.exp(difference), called=math.expm1(called), because=because)


def _quantile(probability: float, freedom: int) -> float:
    """Quantile of Student's t distribution with `freedom` degrees of freedom."""
    from scipy import stats

    return float(stats.t.ppf(probability, freedom))


def _explain_by_clock(excess: float, baseline: LatencyBaseline, clock: Clock | None) -> str:
    """Say that a throttled clock explains an excess over RELEVANT; empty when it does not.

    Args:
        excess: logarithm of the ratio, less that of RELEVANT.
    """
    if clock is None or not clock.throttled or baseline.clock_mhz is None:
        return ""
    before, held = baseline.clock_mhz, clock.lowest_mhz
    if baseline.median_mhz is not None and clock.median_mhz is not None:
        # The time is a median of rounds: one slow moment does not explain it.
        before, held = baseline.median_mhz, clock.median_mhz
    if excess > math.log(max(1.0, before / held)):
        return ""
    return (
        f"the clock was held at {held:.0f} MHz ({', '.join(clock.throttled)}), "
        f"{before:.0f} MHz in the baseline, which explains the difference: run again on a cool device"
    )


def _explain_ambiguity(between: float, own: float, called: float) -> str:
    """Say why the case is ambiguous and what to do about it."""
    return (
        f"noise hides a change of {RELEVANT:.0%}; one beyond {math.expm1(called):.1%} would be called; "
        f"{_name_noisier(between, own)}"
    )


def _explain_unjudged(between: float, own: float) -> str:
    """Say why the case is not judged and what to do about it."""
    return f"noise would hide a kernel that takes {1 + MOST_CALLED:g} times as long; {_name_noisier(between, own)}"


def _name_noisier(between: float, own: float) -> str:
    """What is noisy, by how much, and what to do about it."""
    if between > own:
        return f"the baseline's repeats differ by {between:.2%}: record the baseline again on a quiet device"
    return f"this measurement is noisy by {own:.2%}: run again on a quiet device"


def why_not_credible(measured: Latency, baseline: LatencyBaseline, limits: DeviceLimits) -> str:
    """Why a baseline cannot be one of this case; empty where it can.

    Args:
        measured: the case, with its timing, its bytes and its FLOP.
        baseline: its baseline.
        limits: of the device, measured when the baseline was recorded.
    """
    rate = limits.flop_per_s.get(measured.rate, math.inf)
    floor, fastest = max(measured.bytes / limits.bytes_per_s, measured.flop / rate), min(baseline.seconds)
    if fastest * MOST_BELOW_FLOOR < floor:
        return (
            f"{fastest:.4g} s is {floor / fastest:.1f} times as fast as the limits of the device in the same file "
            f"allow, {floor:.4g} s; no call is that by more than {MOST_BELOW_FLOOR:g} times"
        )
    ratio = baseline.typical / measured.timing.median if measured.timing is not None else 0.0
    if ratio > MOST_APART:
        return (
            f"the call took {ratio:.1f} times as long then as now; no kernel becomes faster by more than "
            f"{MOST_APART:g} times: that is no baseline of it, or it no longer does its work"
        )
    return ""
