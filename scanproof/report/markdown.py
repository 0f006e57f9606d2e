"""The report as Markdown, for the summary of a continuous-integration job.  Pure.

Every string of the report is escaped: what Markdown or HTML would read as markup is written as an entity.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from scanproof.report import latency_text, terminal
from scanproof.report.content import Number, Report, Timed

MOST = 50
"""Rows of a table: GitHub cuts a summary at 1 MiB."""
MARKUP = re.compile(r"[\\`*_\[\]<>&|~$@!#\"']")
TITLES = {"failed": "✕ Failed", "incomplete": "! Nothing failed, but not everything ran", "passed": "✓ Passed"}


def render(report: Report) -> str:
    """The summary."""
    verdict, run = report.verdict, report.run
    stopped = ", stopped before its end" if run.finished is None else ""
    outcomes = ", ".join(f"{number} {escape(outcome)}" for outcome, number in verdict.outcomes.items())
    blocks = [
        f"## scanproof: {TITLES[verdict.state]}",
        escape(verdict.sentence),
        outcomes,
        *bullets("Over many numbers or nights", verdict.together),
        *failed_numbers(report),
        *slower_kernels(report),
        *bullets("New since the last run", verdict.new),
        *bullets("Failed before, and does not any more", verdict.fixed),
        *known(report),
        *reasons("Could not run", verdict.not_run),
        *reasons("Measured, but not comparable with the print", verdict.not_compared),
        *environment(report),
        *bullets("Remarks", report.remarks),
        f"Run {escape(run.id)}{stopped}, {escape(run.gpu)}; last run {escape(report.last_run or 'none')}, "
        f"last good run {escape(report.last_good or 'none')}.",
    ]
    return "\n\n".join(block for block in blocks if block) + "\n"


def escape(text: str) -> str:
    """Text that is shown as it is, in one line."""
    one_line = terminal.visible(" ".join(text.split()))
    return MARKUP.sub(lambda found: f"&#{ord(found.group())};", one_line)


def table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table; the cells are escaped."""
    shown = [f"| {' | '.join(map(escape, row))} |" for row in rows[:MOST]]
    lines = [f"| {' | '.join(titles)} |", f"|{' --- |' * len(titles)}", *shown]
    more = f"\n\n{len(rows) - MOST} more." if len(rows) > MOST else ""
    return "\n".join(lines) + more


def bullets(title: str, texts: Iterable[str]) -> list[str]:
    """A list under a heading, or nothing."""
    found = list(texts)
    lines = [f"- {escape(text)}" for text in found[:MOST]]
    if len(found) > MOST:
        lines.append(f"- {len(found) - MOST} more")
    return [f"### {title}", "\n".join(lines)] if found else []


def natural(value: float | None, number: Number, *, sign: bool = False) -> str:
    """A size in the unit of print."""
    if value is None:
        return "-"
    percent = " %" if number.unit == "percent" else ""
    return terminal.in_print(value, terminal.scale_of(number.unit), number.printed, sign=sign) + percent


def number_row(each: Number) -> tuple[str, ...]:
    """What a failing number needs."""
    return (
        each.id,
        each.printed + (" %" if each.unit == "percent" else ""),
        natural(each.measured, each),
        natural(each.difference, each, sign=True),
        natural(each.allowed, each),
        "-" if each.sigmas is None else f"{each.sigmas:+.1f}",
        each.outcome + (", new" if each.new else ""),
        each.because,
    )


def failed_numbers(report: Report) -> list[str]:
    """The numbers that failed."""
    by_id = {each.id: each for each in report.numbers}
    rows = [number_row(by_id[name]) for name in report.verdict.failed if name in by_id]
    titles = ("number", "published", "measured", "difference", "allowed", "sigmas", "verdict", "because")
    first = next((each.triage for each in report.numbers if each.triage), None)
    why = [f"Why? On the machine that holds the run: {escape(first)}"] if first else []
    return ["### Failed", table(titles, rows), *why] if rows else []


def slower_kernels(report: Report) -> list[str]:
    """The kernel cases that failed."""
    failed = set(report.verdict.failed)
    rows = [kernel_row(each) for each in report.latencies if each.id in failed]
    return ["### Slower kernels", table(("case", "median", "baseline", "change", "because"), rows)] if rows else []


def kernel_row(each: Timed) -> tuple[str, ...]:
    """One kernel case."""
    change = "-" if each.ratio is None else f"{each.ratio - 1:+.1%}"
    times = ("-" if value is None else latency_text.in_words(value) for value in (each.median, each.baseline))
    return (each.id, *times, change, each.because)


def known(report: Report) -> list[str]:
    """Known discrepancies with their reasons."""
    ids = set(report.verdict.known)
    return bullets("Known", [f"{each.id}: {each.because}" for each in report.numbers if each.id in ids])


def reasons(title: str, found: dict[str, tuple[str, ...]]) -> list[str]:
    """How many for which reason."""
    return bullets(title, [f"{len(ids)} × {reason}" for reason, ids in found.items()])


def environment(report: Report) -> list[str]:
    """What changed since the last good run."""
    rows = [(each.what, each.before or "absent", each.now or "absent") for each in report.changes]
    titles = ("what", f"in {escape(report.last_good or '')}", "now")
    return ["### Changed since the last good run", table(titles, rows)] if rows else []
