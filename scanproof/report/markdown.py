"""The report as Markdown, for the summary of a continuous-integration job.  Pure.

Every string of the report is escaped: characters that Markdown or HTML would read as markup become entities.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from scanproof.printable import make_printable
from scanproof.report import latency_text, terminal
from scanproof.report.content import Number, Report, TimedCase

MOST = 50
"""Rows of a table.  GitHub limits a summary to 1 MiB."""
MARKUP = re.compile(r"[\\`*_\[\]<>&|~$@!#\"']")
TITLES = {"failed": "✕ Failed", "incomplete": "! Nothing failed, but not everything ran", "passed": "✓ Passed"}


def render(report: Report) -> str:
    """The report as Markdown."""
    verdict, run = report.verdict, report.run
    stopped = ", stopped before its end" if run.finished is None else ""
    outcomes = ", ".join(f"{number} {escape(outcome)}" for outcome, number in verdict.outcomes.items())
    blocks = [
        f"## scanproof: {TITLES[verdict.state]}",
        escape(verdict.sentence),
        outcomes,
        *bullets("Over many numbers or nights", verdict.together),
        *failed_numbers(report),
        *failed_kernels(report),
        *bullets("New since the last run", verdict.new),
        *bullets("Failed before, and does not any more", verdict.fixed),
        *known_discrepancies(report),
        *reason_counts("Could not run", verdict.not_run),
        *reason_counts("Measured, but not comparable with the print", verdict.not_compared),
        *environment_changes(report),
        *bullets("Remarks", report.remarks),
        f"Run {escape(run.id)}{stopped}, {escape(run.gpu)}; last run {escape(report.last_run or 'none')}, "
        f"last good run {escape(report.last_good or 'none')}.",
    ]
    return "\n\n".join(block for block in blocks if block) + "\n"


def escape(text: str) -> str:
    """Escape text so that Markdown shows it unchanged, in one line."""
    one_line = make_printable(" ".join(text.split()))
    return MARKUP.sub(lambda match: f"&#{ord(match.group())};", one_line)


def table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of at most MOST rows; the cells are escaped."""
    shown = [f"| {' | '.join(map(escape, row))} |" for row in rows[:MOST]]
    lines = [f"| {' | '.join(titles)} |", f"|{' --- |' * len(titles)}", *shown]
    more = f"\n\n{len(rows) - MOST} more." if len(rows) > MOST else ""
    return "\n".join(lines) + more


def bullets(title: str, texts: Iterable[str]) -> list[str]:
    """A list of at most MOST texts under a heading; nothing without texts."""
    items = list(texts)
    lines = [f"- {escape(text)}" for text in items[:MOST]]
    if len(items) > MOST:
        lines.append(f"- {len(items) - MOST} more")
    return [f"### {title}", "\n".join(lines)] if items else []


def format_value(value: float | None, number: Number, *, sign: bool = False) -> str:
    """A value in the unit in which the number is printed; a dash for None."""
    if value is None:
        return "-"
    percent = " %" if number.unit == "percent" else ""
    return terminal.format_as_printed(value, terminal.scale_of(number.unit), number.printed, sign=sign) + percent


def number_row(number: Number) -> tuple[str, ...]:
    """The cells of a failed number."""
    return (
        number.id,
        number.printed + (" %" if number.unit == "percent" else ""),
        format_value(number.measured, number),
        format_value(number.difference, number, sign=True),
        format_value(number.allowed, number),
        "-" if number.sigmas is None else f"{number.sigmas:+.1f}",
        number.outcome + (", new" if number.new else ""),
        number.because,
    )


def failed_numbers(report: Report) -> list[str]:
    """The section of the numbers that failed."""
    by_id = {number.id: number for number in report.numbers}
    rows = [number_row(by_id[name]) for name in report.verdict.failed if name in by_id]
    titles = ("number", "published", "measured", "difference", "allowed", "sigmas", "verdict", "because")
    first = next((number.triage for number in report.numbers if number.triage), None)
    why = [f"Why? On the machine that holds the run: {escape(first)}"] if first else []
    return ["### Failed", table(titles, rows), *why] if rows else []


def failed_kernels(report: Report) -> list[str]:
    """The section of the kernel cases that failed."""
    failed = set(report.verdict.failed)
    rows = [kernel_row(case) for case in report.latencies if case.id in failed]
    titles = ("case", "median", "baseline", "change", "verdict", "because")
    return ["### Failed kernels", table(titles, rows)] if rows else []


def kernel_row(case: TimedCase) -> tuple[str, ...]:
    """The cells of one kernel case."""
    change = "-" if case.ratio is None else f"{case.ratio - 1:+.1%}"
    times = ("-" if value is None else latency_text.format_seconds(value) for value in (case.median, case.baseline))
    return (case.id, *times, change, case.outcome, case.because)


def known_discrepancies(report: Report) -> list[str]:
    """The section of the known discrepancies, with their reasons."""
    ids = set(report.verdict.known)
    return bullets("Known", [f"{number.id}: {number.because}" for number in report.numbers if number.id in ids])


def reason_counts(title: str, ids_by_reason: dict[str, tuple[str, ...]]) -> list[str]:
    """A list of the reasons, with how many ids have each."""
    return bullets(title, [f"{len(ids)} × {reason}" for reason, ids in ids_by_reason.items()])


def environment_changes(report: Report) -> list[str]:
    """The section of what changed in the environment since the last good run."""
    rows = [(change.what, change.before or "absent", change.now or "absent") for change in report.changes]
    titles = ("what", f"in {escape(report.last_good or '')}", "now")
    return ["### Changed since the last good run", table(titles, rows)] if rows else []
