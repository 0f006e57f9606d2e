"""Noise and verdict of a latency, and that false alarms are as rare as promised."""

from __future__ import annotations

import math
import random
import statistics
from dataclasses import replace

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from scanproof.kernels.latency import latency_verdict
from scanproof.kernels.latency.latency_verdict import (
    Clock,
    DeviceLimits,
    Latency,
    LatencyBaseline,
    Timing,
    judge,
    relative_noise,
)
from scanproof.numbers.verdict.outcome import LatencyOutcome

SAME, FASTER, SLOWER = LatencyOutcome.SAME, LatencyOutcome.FASTER, LatencyOutcome.SLOWER
AMBIGUOUS, NOT_MEASURED = LatencyOutcome.AMBIGUOUS, LatencyOutcome.NOT_MEASURED
ORDER = {FASTER: -2, AMBIGUOUS: None, NOT_MEASURED: None, SAME: 0, SLOWER: 2}

seconds = st.floats(1e-6, 10.0)
noises = st.floats(0.0, 0.05)
jitters = st.lists(st.floats(-0.02, 0.02), min_size=5, max_size=12)


def repeats(typical: float, jitter: list[float]) -> LatencyBaseline:
    return LatencyBaseline(seconds=tuple(typical * math.exp(each) for each in jitter))


QUIET = repeats(1e-3, [-0.001, -0.0005, 0.0, 0.0005, 0.001])
LOUD = repeats(1e-3, [-0.05, -0.02, 0.0, 0.02, 0.05])


@pytest.mark.parametrize(
    ("baseline", "ratio", "noise", "outcome"),
    [
        (QUIET, 1.0, 0.001, SAME),
        (QUIET, 1.02, 0.001, SAME),
        (QUIET, 1.10, 0.001, SLOWER),
        (QUIET, 0.90, 0.001, FASTER),
        (QUIET, 1.029, 0.001, AMBIGUOUS),
        (QUIET, 1.10, 0.03, AMBIGUOUS),
        (LOUD, 1.0, 0.001, NOT_MEASURED),
        (LOUD, 1.10, 0.001, NOT_MEASURED),
        (LOUD, 3.0, 0.001, SLOWER),
        (LOUD, 0.2, 0.001, NOT_MEASURED),
    ],
)
def test_what_is_said_follows_from_both_noises(
    baseline: LatencyBaseline, ratio: float, noise: float, outcome: LatencyOutcome
) -> None:
    assert judge(baseline, 1e-3 * ratio, noise).outcome is outcome


@given(seconds, jitters, noises)
def test_the_baseline_itself_is_never_called_slower_or_faster(
    typical: float, jitter: list[float], noise: float
) -> None:
    baseline = repeats(typical, jitter)
    assert judge(baseline, baseline.typical, noise).outcome in (SAME, AMBIGUOUS, NOT_MEASURED)


@given(seconds, jitters, st.floats(0.3, 3.0), noises, st.floats(1e-3, 1e3))
def test_the_unit_of_time_does_not_matter(
    typical: float, jitter: list[float], ratio: float, noise: float, scale: float
) -> None:
    first, second = (judge(repeats(each, jitter), each * ratio, noise) for each in (typical, typical * scale))
    assert math.isclose(first.ratio, second.ratio, rel_tol=1e-9)
    assert math.isclose(first.called, second.called, rel_tol=1e-6)


@given(seconds, jitters, st.floats(1.0, 3.0), noises)
def test_twice_as_slow_is_as_far_as_twice_as_fast(
    typical: float, jitter: list[float], ratio: float, noise: float
) -> None:
    baseline = repeats(typical, jitter)
    slow, fast = (judge(baseline, baseline.typical * each, noise) for each in (ratio, 1 / ratio))
    assume(abs(math.log(ratio) - math.log1p(slow.called)) > 1e-9)
    assume(slow.called <= latency_verdict.MOST_CALLED)
    assert (slow.outcome is SLOWER) == (fast.outcome is FASTER)


@given(seconds, jitters, noises, st.lists(st.floats(0.2, 5.0), min_size=2, max_size=12))
def test_a_slower_measurement_never_has_a_better_verdict(
    typical: float, jitter: list[float], noise: float, ratios: list[float]
) -> None:
    baseline = repeats(typical, jitter)
    found = [ORDER[judge(baseline, typical * ratio, noise).outcome] for ratio in sorted(ratios)]
    decided = [each for each in found if each is not None]
    assert decided == sorted(decided)


@given(seconds, jitters, noises, noises)
def test_more_noise_never_decides(typical: float, jitter: list[float], noise: float, more: float) -> None:
    baseline = repeats(typical, jitter)
    quiet, loud = (judge(baseline, typical * 1.3, each) for each in (noise, noise + more))
    assert loud.called >= quiet.called
    assert quiet.outcome is SLOWER or loud.outcome is not SLOWER


@given(seconds, st.lists(st.floats(-1.0, 1.0), min_size=5, max_size=12), st.floats(0.1, 1.0), st.floats(0.0, 1.0))
def test_nothing_passes_where_a_kernel_twice_as_slow_would(
    typical: float, jitter: list[float], ratio: float, noise: float
) -> None:
    """Whatever is noisy: a case whose verdict is no failure and no skip is one that sees the time doubled."""
    baseline = repeats(typical, jitter)
    if judge(baseline, baseline.typical * ratio, noise).outcome is not NOT_MEASURED:
        assert judge(baseline, baseline.typical * 2.01, noise).outcome is SLOWER


def test_false_alarms_are_as_rare_as_promised(monkeypatch: pytest.MonkeyPatch) -> None:
    """Simulates unchanged kernels with a false alarm rate of 1 in 20 in place of 1 in 40,000, so that some occur."""
    monkeypatch.setattr(latency_verdict, "FALSE_ALARM", 0.05)
    monkeypatch.setattr(latency_verdict, "RELEVANT", 1e-6)
    draw, slower, number = random.Random(7), 0, 8000
    for _ in range(number):
        baseline = repeats(1.0, [draw.gauss(0, 0.01) for _ in range(5)])
        slower += judge(baseline, math.exp(draw.gauss(0, 0.01)), 0.0).outcome is SLOWER
    # The bound is four standard errors of a share of 0.05.
    assert slower / number == pytest.approx(0.05, abs=4 * math.sqrt(0.05 * 0.95 / number))


def test_the_promise_covers_a_whole_night() -> None:
    from scanproof.kernels.latency import latency_cases

    compared = [each for each in latency_cases.load() if each.place == "gpu"]
    assert len(compared) <= latency_verdict.COMPARISONS
    assert math.isclose(latency_verdict.FALSE_ALARM * latency_verdict.COMPARISONS, 0.01)


def test_a_change_that_matters_is_rarely_called_the_same() -> None:
    draw, same, number = random.Random(3), 0, 4000
    for _ in range(number):
        baseline = repeats(1.0, [draw.gauss(0, 0.002) for _ in range(5)])
        same += judge(baseline, (1 + latency_verdict.RELEVANT) * math.exp(draw.gauss(0, 0.002)), 0.0).outcome is SAME
    assert same / number <= latency_verdict.SAME_MISSED + 4 * math.sqrt(0.05 * 0.95 / number)


def test_a_throttled_clock_that_explains_the_difference_is_no_measurement() -> None:
    """Nor is it a pass: on a device that is always held down, a slower kernel would never fail."""
    baseline = replace(QUIET, clock_mhz=1410.0, median_mhz=1980.0)
    held = Clock(lowest_mhz=1200.0, highest_mhz=1600.0, median_mhz=1500.0, throttled=("hardware thermal slowdown",))
    verdict = judge(baseline, 1.3e-3, 0.001, held)
    assert verdict.outcome is NOT_MEASURED
    assert "held at 1500 MHz (hardware thermal slowdown), 1980 MHz in the baseline" in verdict.because
    assert judge(baseline, 1.5e-3, 0.001, held).outcome is SLOWER, "the lowest reading explains no median"
    old = replace(baseline, clock_mhz=1980.0, median_mhz=None)
    assert judge(old, 1.5e-3, 0.001, held).outcome is NOT_MEASURED, "of an old file: lowest with lowest"
    assert judge(baseline, 2e-3, 0.001, held).outcome is SLOWER
    assert judge(baseline, 1.3e-3, 0.001, replace(held, throttled=())).outcome is SLOWER
    assert judge(baseline, 0.7e-3, 0.001, held).outcome is FASTER
    assert judge(baseline, 1e-3, 0.001, held).outcome is SAME


def test_what_would_decide_is_said() -> None:
    assert judge(LOUD, 1e-3, 0.001).because == (
        "noise would hide a kernel that takes 2 times as long; the baseline's repeats differ by 3.81%: "
        "record the baseline again on a quiet device"
    )
    assert judge(QUIET, 1e-3, 0.03).because.endswith("this measurement is noisy by 3.00%: run again on a quiet device")


MEASURED = Latency(
    id="a", nodeid="a", op="o", direction="forward", kind="cuda", device="d", bytes=10**6, flop=1e6, rate="bfloat16",
    timing=Timing(median=2e-3, q1=2e-3, q3=2e-3, rounds=10, calls=1, noise=0.0, stopped="noise", warmup_rounds=2),
)  # fmt: skip
LIMITS = DeviceLimits(bytes_per_s=1e9, flop_per_s={"bfloat16": 1e12})
"""The floor of MEASURED is 1 ms."""


@pytest.mark.parametrize(
    ("seconds", "why"),
    [
        ([2e-3] * 5, ""),
        ([0.2e-3] * 5, ""),
        ([19e-3] * 5, ""),
        ([0.1e-3, *[0.9e-3] * 4], "0.0001 s is 10.0 times as fast as the limits of the device in the same file allow"),
        ([2.0] * 5, "the call took 1000.0 times as long then as now; no kernel becomes faster by more than 10 times"),
    ],
)
def test_a_baseline_that_cannot_have_been_measured_is_none(seconds: list[float], why: str) -> None:
    told = latency_verdict.why_not_credible(MEASURED, LatencyBaseline(seconds=tuple(seconds)), LIMITS)
    assert bool(told) == bool(why)
    assert told.startswith(why)


def test_limits_without_the_rate_of_a_case_bound_its_bytes_alone() -> None:
    told = latency_verdict.why_not_credible(
        replace(MEASURED, rate="tf32", flop=1e15), LatencyBaseline(seconds=(2e-3,) * 5), LIMITS
    )
    assert told == ""


def test_noise_is_the_standard_error_of_the_median() -> None:
    draw = random.Random(1)
    sessions = [[draw.gauss(1.0, 0.02) for _ in range(101)] for _ in range(600)]
    true = statistics.stdev(statistics.median(each) for each in sessions)
    estimated = statistics.fmean(relative_noise(each) for each in sessions)
    assert estimated == pytest.approx(true, rel=0.15)


@given(st.lists(st.floats(1e-6, 1.0), min_size=2, max_size=50), st.floats(0.1, 1e3))
def test_noise_is_relative_and_never_negative(durations: list[float], scale: float) -> None:
    noise = relative_noise(durations)
    assert noise >= 0.0
    assert relative_noise([each * scale for each in durations]) == pytest.approx(noise, rel=1e-6, abs=1e-12)


def test_rounds_that_all_fall_on_one_tick_are_not_without_noise() -> None:
    assert relative_noise([5e-6] * 100) == 0.0
    assert relative_noise([5e-6] * 100, resolution=0.5e-6) == pytest.approx(0.1 / math.sqrt(12))


def test_the_share_of_the_limit_is_that_of_the_larger_floor() -> None:
    timing = Timing(median=2.0, q1=1.0, q3=3.0, rounds=10, calls=1, noise=0.0, stopped="noise", warmup_rounds=2)
    limits = DeviceLimits(bytes_per_s=100.0, flop_per_s={"bfloat16": 1000.0})
    made = Latency(
        id="a", nodeid="a", op="o", direction="forward", kind="cpu", device="d", bytes=50, flop=100.0,
        rate="bfloat16", limits=limits, timing=timing,
    )  # fmt: skip
    assert (made.floor, made.share, made.bound_by) == (0.5, 0.25, "memory")
    busy = replace(made, flop=1500.0)
    assert (busy.floor, busy.share, busy.bound_by) == (1.5, 0.75, "arithmetic")
    assert replace(made, limits=None).share is None
    assert replace(made, timing=None).share is None
