"""Text for the terminal: the table at the end of a run, and the message of a number that failed.  Pure."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence

from rich.console import Console
from rich.measure import Measurement as RichMeasurement
from rich.table import Table
from rich.text import Text

from scanproof.numbers.values import UNRECORDED, PublishedValue
from scanproof.numbers.verdict.engines import DISAGREE
from scanproof.numbers.verdict.outcome import Meaning, Outcome, meaning_of
from scanproof.numbers.verdict.paired_tests import PairedComparison
from scanproof.numbers.verdict.tolerance import Allowance, Verdict
from scanproof.printable import make_printable
from scanproof.record import Evaluation, Record

COLOURS = {Meaning.GOOD: "green", Meaning.OPEN: "yellow", Meaning.FAILED: "red", Meaning.BROKEN: "red"}


def decimals(printed: str) -> int:
    """Digits after the point of a printed number."""
    return 4 if printed == UNRECORDED else len(printed.partition(".")[2])


def format_as_printed(natural: float, scale: float, printed: str, *, sign: bool = False) -> str:
    """A number in the unit of `printed`, with one digit more than `printed` has; never a negative zero.

    `natural` is in the natural unit, `scale` is the number of printed units per natural unit.
    """
    digits = decimals(printed) + 1
    rounded = round(natural * scale, digits) + 0.0
    return f"{rounded:{'+' if sign else ''}.{digits}f}"


def scale_of(unit: str) -> float:
    """Printed units per natural unit."""
    return 100.0 if unit == "percent" else 1.0


def render(table: Table, width: int | None, colour: bool) -> str:
    """A rich table as text, at most `width` characters wide; as wide as needed if that is None (a file, a pipe)."""
    console = Console(
        file=io.StringIO(), width=10_000, force_terminal=colour, no_color=not colour, highlight=False, emoji=False
    )
    natural = RichMeasurement.get(console, console.options, table).maximum
    console.width = natural if width is None else min(natural, width)
    with console.capture() as capture:
        console.print(table)
    return "\n".join(line.rstrip() for line in capture.get().splitlines())


def plain_table(
    columns: Sequence[tuple[str, bool]], rows: Iterable[Sequence[str | Text]], prose: frozenset[str] = frozenset()
) -> Table:
    """A table without boxes; columns are (title, align right).

    If the table is too wide, the first column and those named in `prose` are folded, but never a column of numbers.
    """
    table = Table(box=None, pad_edge=False, header_style="bold")
    for index, (title, right) in enumerate(columns):
        folds = index == 0 or title in prose
        table.add_column(title, justify="right" if right else "left", no_wrap=not folds, overflow="fold")
    for row in rows:
        table.add_row(*(Text(make_printable(cell, lines=True)) if isinstance(cell, str) else cell for cell in row))
    return table


def verdict_row(record: Record) -> tuple[str | Text, ...]:
    """Number, expected, measured, difference, allowed, verdict; dashes where nothing was measured."""
    verdict = record.verdict
    scale = scale_of(record.unit)
    cells = [record.id, record.printed]
    for number, sign in (
        (verdict.measured if verdict else None, False),
        (verdict.difference if verdict else None, True),
        (verdict.allowance.total if verdict and verdict.allowance else None, False),
    ):
        cells.append("-" if number is None else format_as_printed(number, scale, record.printed, sign=sign))
    return (*cells, Text(record.outcome, style=COLOURS[meaning_of(record.outcome)]))


def verdict_table(records: Iterable[Record], width: int | None, colour: bool) -> str:
    """The table at the end of a session."""
    columns = [("number", False), ("expected", True), ("measured", True), ("difference", True), ("allowed", True)]
    table = plain_table([*columns, ("verdict", False)], (verdict_row(record) for record in records))
    return render(table, width, colour)


def unit_name(value: PublishedValue) -> str:
    """The word that follows a number of this unit."""
    return {"percent": "points", "fraction": "(fraction)", "raw": "(raw)"}[value.unit]


def source_line(value: PublishedValue) -> str:
    """Where a number comes from: document and line, and the expected file."""
    file = f"expected/{value.file}:{value.file_line}"
    if value.origin == "embedded":
        return f"recorded in float64, {file}"
    if value.origin == "recorded":
        return f"recorded from a run, {file}"
    return f"document {value.document} line {value.line}, {value.origin}; {file}"


def allowance_lines(value: PublishedValue, allowed: Allowance) -> list[str]:
    """The allowance and its parts."""
    lines = [
        f"  allowed     {format_as_printed(allowed.total, value.scale, value.printed)} {unit_name(value)}, made of"
    ]
    for part in allowed.parts:
        lines.append(
            f"                {format_as_printed(part.size, value.scale, value.printed)}  {part.name}: {part.because}"
        )
    detectable = format_as_printed(allowed.detectable, value.scale, value.printed)
    lines.append(f"  detectable  {detectable} (smallest true change caught with 80% power)")
    return lines


def difference_line(value: PublishedValue, verdict: Verdict) -> str:
    """The difference in points, documents and sigmas."""
    assert verdict.difference is not None
    parts = [f"{format_as_printed(verdict.difference, value.scale, value.printed, sign=True)} {unit_name(value)}"]
    if value.unit == "fraction":
        parts.append(f"{verdict.difference * 100:+.2f} points")
    if verdict.documents_moved is not None:
        parts.append(f"{verdict.documents_moved:+.1f} documents")
    if verdict.sigmas is not None:
        parts.append(f"{verdict.sigmas:+.1f} sigmas of the noise between two correct runs")
    return ", ".join(parts)


def gate_lines(finding: PairedComparison | None) -> list[str]:
    """The result of the document-by-document comparison with the baseline."""
    if finding is None:
        return []
    lines = [f"  baseline    {finding.baseline}: {finding.outcome.value}"]
    if not finding.tests:
        lines.append(f"                {finding.because}")
        if finding.remedy:
            lines.append(f"                {finding.remedy}")
    for test in finding.tests:
        share = f"; fewer than 1 of {1 / test.level:,.0f} is CHANGED" if test.level else ""
        lines.append(f"                {test.name}: {test.because}{share}")
    return lines


def engine_lines(verdict: Verdict, evaluation: Evaluation) -> list[str]:
    """Which engine measured a number that failed; the results of both engines, if both measured it."""
    if verdict.engines is None:
        alone = "shared, and nothing was measured again; --scanproof-engine=auto does, with lm-eval as it is"
        return [f"  engine      {alone}"] if evaluation.engine == "shared" else []
    both = verdict.engines
    summary = DISAGREE if both.disagree else "the engines agree" if both.agree else "plain's verdict counts"
    return [f"  engine      {summary}", *(f"                {line}" for line in both.lines())]


def describe_failure(value: PublishedValue, verdict: Verdict) -> str:
    """What is wrong with a number, in a few words."""
    if verdict.outcome is Outcome.ENGINES_DISAGREE:
        return "as printed when plain scores, but the engines disagree"
    if verdict.outcome is Outcome.COMPARISON_MISSING:
        return "within tolerance, but not compared document by document, which is due"
    if verdict.outcome is Outcome.CHANGED:
        return "within tolerance, but document by document not as in the baseline"
    if value.known_discrepancy:
        return verdict.because
    assert verdict.difference is not None
    return "too high" if verdict.difference > 0 else "too low"


def failure_text(
    value: PublishedValue,
    verdict: Verdict,
    evaluation: Evaluation,
    finding: PairedComparison | None = None,
    triage: Iterable[str] = (),
) -> str:
    """The message of a test whose number is out of tolerance, or changed since the baseline.

    Args:
        value: the published number.
        verdict: its verdict.
        evaluation: the evaluation that measured it.
        finding: the comparison with the baseline, if there was one.
        triage: lines of text from `scanproof.triage`.
    """
    if verdict.measured is None or verdict.difference is None or verdict.allowance is None:
        return f"{value.id}: {verdict.because}\n  {source_line(value)}\n  again       {evaluation.command}"
    measured = format_as_printed(verdict.measured, value.scale, value.printed)
    allowed = format_as_printed(verdict.allowance.total, value.scale, value.printed)
    when = f", measured {evaluation.measured}" if evaluation.measured else ""
    reused = f" (numbers reused: nothing that moves them changed{when})" if evaluation.reused else ""
    lines = [
        f"{measured} measured, {value.printed} expected, {allowed} allowed: {describe_failure(value, verdict)}",
        f"  number      {value.id}",
        f"  expected    {value.printed} ({value.unit})  [{source_line(value)}]",
        f"  measured    {measured}",
        f"  difference  {difference_line(value, verdict)}",
        *allowance_lines(value, verdict.allowance),
        *gate_lines(finding),
        *engine_lines(verdict, evaluation),
        f"  n           {value.documents if value.documents is not None else 'unknown'} documents",
        f"  job         {value.job.name}{reused}",
        *(f"  changed     {change}" for change in evaluation.kernel_changes),
        f"  again       {evaluation.command}",
        f"  samples     {evaluation.samples}",
        *triage,
    ]
    return "\n".join(lines)
