"""Text that people read: the table at the end of a run, the message of a failing number.  Pure."""

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
from scanproof.record import Evaluation, Record

COLOURS = {Meaning.GOOD: "green", Meaning.OPEN: "yellow", Meaning.FAILED: "red", Meaning.BROKEN: "red"}


def decimals(printed: str) -> int:
    """Digits after the point of a printed number."""
    return 4 if printed == UNRECORDED else len(printed.partition(".")[2])


def in_print(natural: float, scale: float, printed: str, *, sign: bool = False) -> str:
    """A number in the unit of `printed`, with one digit more than was printed; never a negative zero."""
    digits = decimals(printed) + 1
    rounded = round(natural * scale, digits) + 0.0
    return f"{rounded:{'+' if sign else ''}.{digits}f}"


def scale_of(unit: str) -> float:
    """Units of print per natural unit."""
    return 100.0 if unit == "percent" else 1.0


def render(table: Table, width: int | None, colour: bool) -> str:
    """A rich table as text, no wider than `width`; as wide as it needs to be when that is None (a file, a pipe)."""
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

    Where it is too wide, the first column and those named in `prose` are folded, never a number.
    """
    table = Table(box=None, pad_edge=False, header_style="bold")
    for index, (title, right) in enumerate(columns):
        folds = index == 0 or title in prose
        table.add_column(title, justify="right" if right else "left", no_wrap=not folds, overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell) if isinstance(cell, str) else cell for cell in row))
    return table


def verdict_row(kept: Record) -> tuple[str | Text, ...]:
    """Number, expected, measured, difference, allowed, verdict; dashes where nothing was measured."""
    verdict = kept.verdict
    scale = scale_of(kept.unit)
    shown = [kept.id, kept.printed]
    for number, sign in (
        (verdict.measured if verdict else None, False),
        (verdict.difference if verdict else None, True),
        (verdict.allowance.total if verdict and verdict.allowance else None, False),
    ):
        shown.append("-" if number is None else in_print(number, scale, kept.printed, sign=sign))
    return (*shown, Text(kept.outcome, style=COLOURS[meaning_of(kept.outcome)]))


def verdict_table(records: Iterable[Record], width: int | None, colour: bool) -> str:
    """The table that ends a session."""
    columns = [("number", False), ("expected", True), ("measured", True), ("difference", True), ("allowed", True)]
    table = plain_table([*columns, ("verdict", False)], (verdict_row(kept) for kept in records))
    return render(table, width, colour)


def unit_name(value: PublishedValue) -> str:
    """The word behind a number of this unit."""
    return {"percent": "points", "fraction": "(fraction)", "raw": "(raw)"}[value.unit]


def source_line(value: PublishedValue) -> str:
    """Where a number comes from, for a reader who wants to see it in print."""
    kept = f"expected/{value.file}:{value.file_line}"
    if value.origin == "embedded":
        return f"recorded in float64, {kept}"
    if value.origin == "recorded":
        return f"recorded from a run, {kept}"
    return f"document {value.document} line {value.line}, {value.origin}; {kept}"


def allowance_lines(value: PublishedValue, allowed: Allowance) -> list[str]:
    """What `allowed` is made of."""
    shown = [f"  allowed     {in_print(allowed.total, value.scale, value.printed)} {unit_name(value)}, made of"]
    for part in allowed.parts:
        shown.append(f"                {in_print(part.size, value.scale, value.printed)}  {part.name}: {part.because}")
    detectable = in_print(allowed.detectable, value.scale, value.printed)
    shown.append(f"  detectable  {detectable} (smallest true change caught with 80% power)")
    return shown


def difference_line(value: PublishedValue, verdict: Verdict) -> str:
    """The difference in points, documents and sigmas."""
    assert verdict.difference is not None
    parts = [f"{in_print(verdict.difference, value.scale, value.printed, sign=True)} {unit_name(value)}"]
    if value.unit == "fraction":
        parts.append(f"{verdict.difference * 100:+.2f} points")
    if verdict.documents_moved is not None:
        parts.append(f"{verdict.documents_moved:+.1f} documents")
    if verdict.sigmas is not None:
        parts.append(f"{verdict.sigmas:+.1f} sigmas of the noise between two correct runs")
    return ", ".join(parts)


def gate_lines(finding: PairedComparison | None) -> list[str]:
    """What the comparison with the baseline found."""
    if finding is None:
        return []
    lines = [f"  baseline    {finding.baseline}: {finding.outcome.value}"]
    if not finding.tests:
        lines.append(f"                {finding.because}")
    for test in finding.tests:
        share = f"; fewer than 1 of {1 / test.level:,.0f} is CHANGED" if test.level else ""
        lines.append(f"                {test.name}: {test.because}{share}")
    return lines


def engine_lines(verdict: Verdict, evaluation: Evaluation) -> list[str]:
    """Which engine measured a number that failed; what both did, where there were two."""
    if verdict.engines is None:
        alone = "shared, and nothing was measured again; --scanproof-engine=auto does, with lm-eval as it is"
        return [f"  engine      {alone}"] if evaluation.engine == "shared" else []
    both = verdict.engines
    said = DISAGREE if both.disagree else "the engines agree" if both.agree else "plain's verdict counts"
    return [f"  engine      {said}", *(f"                {line}" for line in both.lines())]


def direction(value: PublishedValue, verdict: Verdict) -> str:
    """What is wrong with a number, in a word or two."""
    if verdict.outcome is Outcome.ENGINES_DISAGREE:
        return "as printed when plain scores, but the engines disagree"
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
    """What the person on triage reads first when a number is out of tolerance, or changed since the baseline.

    `triage` is what `scanproof.triage` found, in lines.
    """
    if verdict.measured is None or verdict.difference is None or verdict.allowance is None:
        return f"{value.id}: {verdict.because}\n  {source_line(value)}\n  again       {evaluation.command}"
    measured = in_print(verdict.measured, value.scale, value.printed)
    allowed = in_print(verdict.allowance.total, value.scale, value.printed)
    reused = " (numbers reused: nothing that moves them changed)" if evaluation.reused else ""
    lines = [
        f"{measured} measured, {value.printed} expected, {allowed} allowed: {direction(value, verdict)}",
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


def visible(text: str) -> str:
    """Text of a data set or a log whose control characters are written out: a terminal must not obey them."""
    return "".join(c if c.isprintable() or c in "\t\n\xa0" else c.encode("unicode_escape").decode() for c in text)
