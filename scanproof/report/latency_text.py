"""Text about latencies that people read: the table at the end of a session, the message of a slower kernel.  Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from rich.text import Text

from scanproof.kernels.latency.latency_verdict import Latency
from scanproof.kernels.launches import proof
from scanproof.kernels.launches.launched import Launches
from scanproof.numbers.verdict.outcome import LatencyOutcome, meaning_of
from scanproof.report import terminal

COLUMNS = (
    ("latency", False), ("median", True), ("noise", True), ("GB/s", True), ("TFLOP/s", True), ("of limit", True),
    ("to baseline", True), ("verdict", False),
)  # fmt: skip
UNITS = ((1.0, "s"), (1e-3, "ms"), (1e-6, "us"))


def in_words(seconds: float) -> str:
    """`0.0012345` -> `1.234 ms`: four digits that count."""
    scale, unit = next((each for each in UNITS if seconds >= each[0]), (1e-6, "us"))
    value = seconds / scale
    return f"{value:.{3 if value < 10 else 2 if value < 100 else 1}f} {unit}"


def rate(number: float) -> str:
    """A rate in units of which 1 is much or little."""
    return f"{number:.3g}" if number < 100 else f"{number:.0f}"


def row(found: Latency) -> tuple[str | Text, ...]:
    """One line of the table; dashes where nothing was measured."""
    verdict = Text(found.outcome, style=terminal.COLOURS[meaning_of(found.outcome)])
    if found.timing is None:
        return (found.id, *["-"] * 6, verdict)
    seconds = found.timing.median
    return (
        found.id,
        in_words(seconds),
        f"{found.timing.noise:.2%}",
        rate(found.bytes / seconds / 1e9),
        rate(found.flop / seconds / 1e12),
        "-" if found.share is None else f"{found.share:.1%}",
        "-" if found.verdict is None else f"{found.verdict.ratio - 1:+.1%}",
        verdict,
    )


def figures(found: Latency) -> dict[str, object]:
    """What pytest-benchmark keeps beside its own numbers, in its JSON."""
    assert found.timing is not None
    seconds = found.timing.median
    return {
        "noise": found.timing.noise,
        "calls": found.timing.calls,
        "GB/s": found.bytes / seconds / 1e9,
        "TFLOP/s": found.flop / seconds / 1e12,
        "share_of_limit": found.share,
        "verdict": found.outcome,
        "device": found.device,
    }


def summary_lines(found: Sequence[Latency], width: int | None, colour: bool) -> list[str]:
    """The table, and what a reader of it has to know; of a recording the last repeat stands for all."""
    last = max((each.repeat for each in found), default=0)
    shown = [each for each in found if each.repeat == last]
    measured = [each for each in shown if each.timing is not None]
    lines = []
    if measured:
        lines.append(terminal.render(terminal.plain_table(COLUMNS, map(row, measured)), width, colour))
        lines += limit_lines(measured)
        lines += remark_lines(measured)
    reasons = Counter(each.because for each in shown if each.timing is None)
    lines += [f"{count} latencies not measured: {reason}" for reason, count in reasons.most_common()]
    outcomes = ", ".join(f"{count} {outcome}" for outcome, count in sorted(Counter(e.outcome for e in shown).items()))
    return [*lines, f"{len(shown)} latencies: {outcomes}"] if shown else lines


def limit_lines(measured: Iterable[Latency]) -> list[str]:
    """What each device can do, as measured in this session."""
    devices = {(each.kind, each.device): each.limits for each in measured if each.limits is not None}
    return [
        f"limits of {device}: copy {limits.bytes_per_s / 1e9:.0f} GB/s; matrix product "
        + ", ".join(f"{name} {rate(flop / 1e12)} TFLOP/s" for name, flop in limits.flop_per_s.items())
        for (_, device), limits in devices.items()
    ]


def remark_lines(measured: Sequence[Latency]) -> list[str]:
    """What is remarkable about single latencies."""
    lines = []
    for each in measured:
        if each.outcome in (LatencyOutcome.AMBIGUOUS.value, LatencyOutcome.FASTER.value):
            lines.append(f"{each.outcome.lower()}: {each.id}: {each.because}")
    late = [each for each in measured if each.timing and each.timing.stopped == "time"]
    waited = [each for each in measured if each.timing and each.timing.waited]
    missing = Counter(each.because for each in measured if each.outcome == LatencyOutcome.NO_BASELINE.value)
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
    """One line per set of reasons, with the latency whose clock was lowest."""
    held: dict[tuple[str, ...], list[tuple[float, Latency]]] = {}
    for each in measured:
        if each.clock is not None and each.clock.throttled:
            held.setdefault(each.clock.throttled, []).append((each.clock.lowest_mhz, each))
    lines = []
    for reasons, found in held.items():
        lowest, worst = min(found, key=lambda pair: pair[0])
        lines.append(f"{len(found)} measured while throttled ({', '.join(reasons)}): {worst.id} at {lowest:.0f} MHz")
    return lines


def clock_text(found: Latency) -> str:
    """The SM clock while it was measured."""
    if found.clock is None:
        return found.clock_unread or "not read"
    held = f", held down: {', '.join(found.clock.throttled)}" if found.clock.throttled else ""
    later = f", later {found.clock_unread}" if found.clock_unread else ""
    return f"{found.clock.lowest_mhz:.0f} to {found.clock.highest_mhz:.0f} MHz{held}{later}"


def choice_lines(found: Latency) -> list[str]:
    """How the autotuners chose differently than in every repeat of the baseline; empty where they did not.

    Compared with what most repeats chose.
    """
    kept = found.baseline.chosen if found.baseline is not None else ()
    if not found.choices or not kept or any(each.choices == found.choices for each in kept):
        return []
    most = max(kept, key=lambda each: len(each.repeats))
    changed = proof.compare_choices(Launches(choices=most.choices), Launches(choices=found.choices))
    others = " (the repeats differ too)" if len(kept) > 1 else ""
    return [f"  autotuner   chose differently: {each.removeprefix('autotuner: ')}{others}" for each in changed]


def failure_text(found: Latency) -> str:
    """What the person on triage reads first when a kernel is slower."""
    assert found.timing is not None
    assert found.verdict is not None
    assert found.baseline is not None
    timing, verdict, seconds = found.timing, found.verdict, found.timing.median
    calls = f"{timing.calls} calls" if timing.calls > 1 else "1 call"
    share = "" if found.share is None else f", {found.share:.1%} of the limit ({found.bound_by})"
    return "\n".join(
        [
            f"{in_words(seconds)} measured, {in_words(found.baseline.typical)} in the baseline: "
            f"{verdict.ratio - 1:+.1%}, {found.because}",
            f"  latency     {found.id}",
            f"  measured    {in_words(seconds)}, quartiles {in_words(timing.q1)} and {in_words(timing.q3)}, "
            f"{timing.rounds} rounds of {calls}, noise {timing.noise:.2%}, stopped by {timing.stopped}",
            f"  baseline    {in_words(found.baseline.typical)}, {len(found.baseline.seconds)} repeats, "
            f"noise {found.baseline.noise:.2%} between them  [{found.baseline.source}]",
            f"  called      beyond {verdict.called:.1%} of the baseline, by both noises",
            *choice_lines(found),
            f"  work        {rate(found.bytes / seconds / 1e9)} GB/s, "
            f"{rate(found.flop / seconds / 1e12)} TFLOP/s{share}",
            f"  device      {found.device}; clock {clock_text(found)}",
        ]
    )
