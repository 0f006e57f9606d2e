"""Text about latencies: the table at the end of a session, and the message of a slower kernel.  Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from rich.text import Text

from scanproof.kernels.latency.latency_verdict import Latency, Timing
from scanproof.kernels.launches import proof
from scanproof.kernels.launches.launched import Launches
from scanproof.numbers.verdict.outcome import LatencyOutcome, meaning_of
from scanproof.report import terminal

COLUMNS = (
    ("latency", False), ("median", True), ("noise", True), ("GB/s", True), ("TFLOP/s", True), ("of limit", True),
    ("to baseline", True), ("verdict", False),
)  # fmt: skip
"""Titles of the table's columns, and whether they are aligned right."""
UNITS = ((1.0, "s"), (1e-3, "ms"), (1e-6, "us"))
"""Units of time in seconds."""
LOUD = 0.1
"""Noise, as a share of a time, beyond which no ratio of times is shown."""


def format_seconds(seconds: float) -> str:
    """Seconds with four significant digits: `0.0012345` -> `1.234 ms`."""
    scale, unit = next((unit for unit in UNITS if seconds >= unit[0]), (1e-6, "us"))
    value = seconds / scale
    return f"{value:.{3 if value < 10 else 2 if value < 100 else 1}f} {unit}"


def format_rate(number: float) -> str:
    """A rate, such as GB/s, with three significant digits, or as a whole number from 100 on."""
    return f"{number:.3g}" if number < 100 else f"{number:.0f}"


def latency_row(latency: Latency) -> tuple[str | Text, ...]:
    """One line of the table; dashes where nothing was measured."""
    verdict = Text(latency.outcome, style=terminal.COLOURS[meaning_of(latency.outcome)])
    if latency.timing is None:
        return (latency.id, *["-"] * 6, verdict)
    seconds = latency.timing.median
    return (
        latency.id,
        format_seconds(seconds),
        f"{latency.timing.noise:.2%}",
        format_rate(latency.bytes / seconds / 1e9),
        format_rate(latency.flop / seconds / 1e12),
        "-" if latency.share is None else f"{latency.share:.1%}",
        "-" if latency.verdict is None else f"{latency.verdict.ratio - 1:+.1%}",
        verdict,
    )


def benchmark_figures(latency: Latency) -> dict[str, object]:
    """Figures that pytest-benchmark stores in its JSON beside its own."""
    assert latency.timing is not None
    seconds = latency.timing.median
    return {
        "noise": latency.timing.noise,
        "calls": latency.timing.calls,
        "GB/s": latency.bytes / seconds / 1e9,
        "TFLOP/s": latency.flop / seconds / 1e12,
        "share_of_limit": latency.share,
        "verdict": latency.outcome,
        "device": latency.device,
    }


def summary_lines(latencies: Sequence[Latency], width: int | None, colour: bool) -> list[str]:
    """The table and the remarks below it; of a recording with repeats, the last repeat is shown."""
    last = max((latency.repeat for latency in latencies), default=0)
    shown = [latency for latency in latencies if latency.repeat == last]
    measured = [latency for latency in shown if latency.timing is not None]
    lines = []
    if measured:
        lines.append(terminal.render(terminal.plain_table(COLUMNS, map(latency_row, measured)), width, colour))
        lines += limit_lines(measured)
        if beside := side_by_side(measured):
            titles, rows = beside
            lines.append(terminal.render(terminal.plain_table(titles, rows), width, colour))
        lines += remark_lines(measured)
    wrong = [latency for latency in shown if latency.outcome == LatencyOutcome.WRONG.value]
    lines += [f"wrong: {latency.id}: {latency.because.splitlines()[0]}" for latency in wrong]
    unmeasured = [latency for latency in shown if latency.outcome == LatencyOutcome.NOT_MEASURED.value]
    lines += [f"not judged: {latency.id}: {latency.because}" for latency in unmeasured if latency.timing is not None]
    reasons = Counter(latency.because for latency in unmeasured if latency.timing is None)
    lines += [f"{count} latencies not measured: {reason}" for reason, count in reasons.most_common()]
    counts = Counter(latency.outcome for latency in shown)
    outcomes = ", ".join(f"{count} {outcome}" for outcome, count in sorted(counts.items()))
    return [*lines, f"{len(shown)} latencies: {outcomes}"] if shown else lines


def side_by_side(measured: Iterable[Latency]) -> tuple[tuple[tuple[str, bool], ...], list[tuple[str, ...]]] | None:
    """Titles and rows of a table of the cases that more than one was timed in, provider by provider.

    A time beside the first one's has their ratio after it, unless noise leaves none.  None: nothing was timed side by
    side.
    """
    by_case: dict[tuple[str, str], dict[str, Timing]] = {}
    for latency in measured:
        if latency.timing is not None:
            own = "PyTorch form" if latency.kind == "cpu" else "installed"
            by_case.setdefault((latency.device, latency.case), {})[latency.provider or own] = latency.timing
    several = {case: times for (_, case), times in by_case.items() if len(times) > 1}
    titles = list(dict.fromkeys(title for times in several.values() for title in times))
    if not several:
        return None
    rows = []
    for case, times in several.items():
        first = next(iter(times.values()))
        texts = [describe_beside(times[title], first) if title in times else "-" for title in titles]
        rows.append((case, *texts))
    return (("side by side", False), *((title, True) for title in titles)), rows


def describe_beside(timing: Timing, first: Timing) -> str:
    """A time, and how many times the first one's it is; its noise in place of that where noise is too large."""
    text = format_seconds(timing.median)
    if timing.noise > LOUD:
        return f"{text} (noise {timing.noise:.0%})"
    return text if timing is first or first.noise > LOUD else f"{text} ({timing.median / first.median:.2f}x)"


def limit_lines(measured: Iterable[Latency]) -> list[str]:
    """The limits of each device, as measured in this session."""
    devices = {(case.kind, case.device): case.limits for case in measured if case.limits is not None}
    return [
        f"limits of {device}: copy {limits.bytes_per_s / 1e9:.0f} GB/s; matrix product "
        + ", ".join(f"{name} {format_rate(flop / 1e12)} TFLOP/s" for name, flop in limits.flop_per_s.items())
        for (_, device), limits in devices.items()
    ]


def remark_lines(measured: Sequence[Latency]) -> list[str]:
    """Remarks about single latencies and about how they were measured."""
    lines = []
    for case in measured:
        if case.outcome in (LatencyOutcome.AMBIGUOUS.value, LatencyOutcome.FASTER.value):
            lines.append(f"{case.outcome.lower()}: {case.id}: {case.because}")
    late = [case for case in measured if case.timing and case.timing.stopped == "time"]
    waited = [case for case in measured if case.timing and case.timing.waited]
    missing = Counter(case.because for case in measured if case.outcome == LatencyOutcome.NO_BASELINE.value)
    lines += [f"{count} not compared: {because}" for because, count in missing.items()]
    lines += throttled_lines(measured)
    if late:
        lines.append(
            f"{len(late)} reached their time limit before their noise was small (--benchmark-max-time=SECONDS)"
        )
    if waited:
        lines.append(f"{len(waited)} include time in which the device may have waited for the host")
    return lines


def throttled_lines(measured: Iterable[Latency]) -> list[str]:
    """One line per set of throttling reasons, with the latency whose clock was lowest."""
    by_reasons: dict[tuple[str, ...], list[tuple[float, Latency]]] = {}
    for case in measured:
        if case.clock is not None and case.clock.throttled:
            by_reasons.setdefault(case.clock.throttled, []).append((case.clock.lowest_mhz, case))
    lines = []
    for reasons, cases in by_reasons.items():
        lowest, worst = min(cases, key=lambda pair: pair[0])
        lines.append(f"{len(cases)} measured while throttled ({', '.join(reasons)}): {worst.id} at {lowest:.0f} MHz")
    return lines


def clock_text(latency: Latency) -> str:
    """The SM clock during the measurement."""
    if latency.clock is None:
        return latency.clock_unread or "not read"
    throttled = f", held down: {', '.join(latency.clock.throttled)}" if latency.clock.throttled else ""
    later = f", later {latency.clock_unread}" if latency.clock_unread else ""
    return f"{latency.clock.lowest_mhz:.0f} to {latency.clock.highest_mhz:.0f} MHz{throttled}{later}"


def choice_lines(latency: Latency) -> list[str]:
    """How the autotuners' choices differ from the baseline; empty if they are those of one of its repeats.

    The lines compare with the choices of most repeats.
    """
    chosen = latency.baseline.chosen if latency.baseline is not None else ()
    if not latency.choices or not chosen or any(baseline.choices == latency.choices for baseline in chosen):
        return []
    most = max(chosen, key=lambda baseline: len(baseline.repeats))
    changed = proof.compare_choices(Launches(choices=most.choices), Launches(choices=latency.choices))
    others = " (the repeats differ too)" if len(chosen) > 1 else ""
    return [f"  autotuner   chose differently: {change.removeprefix('autotuner: ')}{others}" for change in changed]


def failure_text(latency: Latency) -> str:
    """The message of a test whose kernel is slower."""
    assert latency.timing is not None
    assert latency.verdict is not None
    assert latency.baseline is not None
    timing, verdict, seconds = latency.timing, latency.verdict, latency.timing.median
    calls = f"{timing.calls} calls" if timing.calls > 1 else "1 call"
    share = "" if latency.share is None else f", {latency.share:.1%} of the limit ({latency.bound_by})"
    return "\n".join(
        [
            f"{format_seconds(seconds)} measured, {format_seconds(latency.baseline.typical)} in the baseline: "
            f"{verdict.ratio - 1:+.1%}, {latency.because}",
            f"  latency     {latency.id}",
            f"  measured    {format_seconds(seconds)}, quartiles {format_seconds(timing.q1)} and "
            f"{format_seconds(timing.q3)}, {timing.rounds} rounds of {calls}, noise {timing.noise:.2%}, "
            f"stopped by {timing.stopped}",
            f"  baseline    {format_seconds(latency.baseline.typical)}, {len(latency.baseline.seconds)} repeats, "
            f"noise {latency.baseline.noise:.2%} between them  [{latency.baseline.source}]",
            f"  called      beyond {verdict.called:.1%} of the baseline, by both noises",
            *choice_lines(latency),
            f"  work        {format_rate(latency.bytes / seconds / 1e9)} GB/s, "
            f"{format_rate(latency.flop / seconds / 1e12)} TFLOP/s{share}",
            f"  device      {latency.device}; clock {clock_text(latency)}",
        ]
    )
