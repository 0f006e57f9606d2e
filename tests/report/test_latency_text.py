"""The text about latencies at the end of a session."""

from __future__ import annotations

from dataclasses import replace

import pytest

from scanproof.kernels.latency.latency_verdict import (
    Chosen,
    Clock,
    DeviceLimits,
    Latency,
    LatencyBaseline,
    LatencyVerdict,
    Timing,
)
from scanproof.kernels.launches.launched import AutotunerChoice
from scanproof.numbers.verdict.outcome import LatencyOutcome
from scanproof.report import latency_text

TIMING = Timing(median=2e-3, q1=1.9e-3, q3=2.1e-3, rounds=50, calls=1, noise=0.004, stopped="noise", warmup_rounds=3)
MADE = Latency(
    id="scan", nodeid="n", op="o", direction="forward", kind="cuda", device="NVIDIA H200", bytes=4 * 10**9, flop=1e12,
    outcome="SAME", timing=TIMING,
    limits=DeviceLimits(bytes_per_s=4e12, flop_per_s={"bfloat16": 8e14}), rate="bfloat16",
)  # fmt: skip


def said(*found: Latency) -> str:
    return "\n".join(latency_text.summary_lines(found, None, False))


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(1.5, "1.500 s"), (0.0123, "12.30 ms"), (123e-6, "123.0 us"), (4.5e-6, "4.500 us"), (2e-7, "0.200 us")],
)
def test_times_have_four_digits_and_a_unit(seconds: float, text: str) -> None:
    assert latency_text.format_seconds(seconds) == text


def test_a_line_says_bytes_flop_and_the_share_of_the_limit() -> None:
    text = said(MADE).splitlines()[1]
    assert text.split() == ["scan", "2.000", "ms", "0.40%", "2000", "500", "62.5%", "-", "SAME"]


def test_what_was_not_measured_has_a_reason_and_no_number() -> None:
    text = said(replace(MADE, timing=None, outcome="NOT_MEASURED", because="leave out -n"))
    assert text == "1 latencies not measured: leave out -n\n1 latencies: 1 NOT_MEASURED"


def test_throttling_is_said() -> None:
    held = Clock(lowest_mhz=1410.0, highest_mhz=1980.0, throttled=("hardware thermal slowdown",))
    text = said(replace(MADE, clock=held), replace(MADE, clock=replace(held, lowest_mhz=1500.0), id="other"))
    assert "2 measured while throttled (hardware thermal slowdown): scan at 1410 MHz" in text
    found = replace(MADE, clock=held)
    assert latency_text.clock_text(found) == "1410 to 1980 MHz, held down: hardware thermal slowdown"
    later = replace(found, clock_unread="not read: GPU is lost")
    assert latency_text.clock_text(later).endswith("hardware thermal slowdown, later not read: GPU is lost")
    assert "throttled" not in said(replace(MADE, clock=replace(held, throttled=())))


def test_what_spoils_a_measurement_is_counted() -> None:
    text = said(replace(MADE, timing=replace(TIMING, stopped="time", waited=3)), MADE)
    assert "1 reached their time limit before their noise was small (--benchmark-max-time=SECONDS)" in text
    assert "1 include time in which the device may have waited for the host" in text
    assert "waited" not in said(MADE)


def test_an_ambiguous_latency_says_what_would_decide() -> None:
    text = said(replace(MADE, outcome="AMBIGUOUS", because="run again on a quiet device"))
    assert "ambiguous: scan: run again on a quiet device" in text


def test_a_recording_shows_its_last_repeat() -> None:
    found = [replace(MADE, repeat=n, outcome="RECORDED") for n in (1, 2, 3)]
    assert said(*found).endswith("1 latencies: 1 RECORDED")


def chose(warps: int) -> tuple[AutotunerChoice, ...]:
    return (
        AutotunerChoice(
            kernel="_chunk_scan_fwd_kernel", key=("256", "64"), config={"BLOCK_SIZE_M": 64, "num_warps": warps}
        ),
        AutotunerChoice(kernel="_bmm_chunk_fwd_kernel", key=("256",), config={"num_warps": 4}),
    )


@pytest.mark.parametrize(
    ("now", "kept", "told"),
    [
        (chose(8), ((7, chose(4)),), ["_chunk_scan_fwd_kernel chose num_warps 8 (4 before) for 256, 64"]),
        (chose(8), ((5, chose(4)), (2, chose(2))),
         ["_chunk_scan_fwd_kernel chose num_warps 8 (4 before) for 256, 64 (the repeats differ too)"]),
        # The same as in some of the repeats.
        (chose(8), ((5, chose(4)), (2, chose(8))), []),
        (chose(8), (), []),
        ((), ((7, chose(4)),), []),
    ],
)  # fmt: skip
def test_a_slower_latency_says_what_the_autotuner_chose_differently(
    now: tuple[AutotunerChoice, ...], kept: tuple[tuple[int, tuple[AutotunerChoice, ...]], ...], told: list[str]
) -> None:
    baseline = LatencyBaseline(
        seconds=(1e-3,) * 7,
        chosen=tuple(Chosen(repeats=tuple(range(1, count + 1)), choices=choices) for count, choices in kept),
    )
    verdict = LatencyVerdict(outcome=LatencyOutcome.SLOWER, ratio=2.0, called=0.03, because="more than 3.0%")
    text = latency_text.failure_text(replace(MADE, choices=now, baseline=baseline, verdict=verdict))
    assert [line for line in text.splitlines() if "autotuner" in line] == [
        f"  autotuner   chose differently: {each}" for each in told
    ]


def test_providers_of_a_case_stand_side_by_side() -> None:
    """One table for all that more than one was timed in; a time is beside the first one's with their ratio."""
    fla = replace(MADE, id="scan-fla", provider="fla", timing=replace(TIMING, median=1e-3))
    ours = replace(MADE, id="scan-my:f", provider="my:f", timing=replace(TIMING, median=4e-3))
    other = replace(MADE, id="norm"), replace(MADE, id="norm-fla", provider="fla", timing=replace(TIMING, median=3e-3))
    lines = said(MADE, replace(MADE, id="alone"), fla, ours, *other).splitlines()
    table = lines.index(next(line for line in lines if line.startswith("side by side")))
    assert lines[table].split() == ["side", "by", "side", "installed", "fla", "my:f"]
    assert lines[table + 1].split() == ["scan", "2.000", "ms", "1.000", "ms", "(0.50x)", "4.000", "ms", "(2.00x)"]
    assert lines[table + 2].split() == ["norm", "2.000", "ms", "3.000", "ms", "(1.50x)", "-"]
    loud = replace(fla, timing=replace(TIMING, median=8e-3, noise=3.5))
    assert "8.000 ms (noise 350%)" in said(MADE, loud)
    assert "(2.00x)" not in said(replace(MADE, timing=replace(TIMING, noise=0.5)), ours)
    assert "side by side" not in said(MADE, replace(MADE, id="alone"))
    assert "side by side" not in said(MADE, replace(fla, timing=None, outcome="WRONG", because="wrong"))
