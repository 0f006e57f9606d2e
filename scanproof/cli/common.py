"""What the commands share: options, rows as table, JSON or CSV, and how a command stops."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Iterable, Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from scanproof import files
from scanproof.numbers.expected.problems import ExpectedError
from scanproof.printable import make_printable

if TYPE_CHECKING:
    from scanproof.numbers.expected.reader import Expected


class Format(StrEnum):
    """How rows are printed."""

    table = "table"
    json = "json"
    csv = "csv"


ExpectedOption = Annotated[
    Path | None,
    typer.Option(
        "--expected",
        envvar="SCANPROOF_EXPECTED",
        help="Folder of expected values (default: ./expected, else the one shipped).",
    ),
]
FormatOption = Annotated[Format, typer.Option("--format", help="How to print.")]
DocumentOption = Annotated[
    list[str] | None, typer.Option("--document", help="Only this document, by number: 000. Can be repeated.")
]
ModelOption = Annotated[
    list[str] | None, typer.Option("--model", help="Only models whose name or hub id holds this text.")
]

StoreOption = Annotated[
    Path, typer.Option("--store", envvar="SCANPROOF_STORE", help="Folder of finished evaluations and runs.")
]


LONGEST_LINE = 2000
"""Characters of a line that says what is wrong."""


def say(text: str = "", *, err: bool = False, nl: bool = True) -> None:
    """Print text that may hold names and reasons of others."""
    typer.echo(make_printable(text, lines=True), err=err, nl=nl)


def stop(message: str, code: int = 2) -> typer.Exit:
    """Say what is wrong on stderr; raise the result."""
    say(make_printable(f"scanproof: {message}", LONGEST_LINE, lines=True), err=True)
    return typer.Exit(code)


def find_run(store: Path, name: str) -> Path:
    """File of a run of the local store; of `latest`, says on stderr which runs it passes over.  Raises RecordError."""
    from scanproof import record

    path = record.find_run(store / "runs", name)
    if name == "latest":
        say_passed_over(path)
    return path


def say_passed_over(latest: Path) -> None:
    """Say on stderr which runs beside the latest one may be newer."""
    from scanproof import record

    for line in record.passed_over(latest):
        say(f"latest is {latest.parent.name}: {line}", err=True)


def expected_folder(given: Path | None) -> Path:
    """The folder of expected values: the one given, `./expected`, the clone's, the one shipped."""
    from scanproof.plugin.options import PACKAGED_EXPECTED

    if given is not None:
        if not files.is_folder(given):
            raise stop(f"--expected: there is no folder {given}")
        return given
    clone = Path(__file__).parents[2] / "expected"
    for folder in (Path("expected"), clone, PACKAGED_EXPECTED):
        if (folder / "tolerance.yaml").is_file():
            return folder
    raise stop("there is no folder `expected` here; name one with --expected DIR")


def load_expected(given: Path | None) -> Expected:
    """Load expected values, or say every mistake in them and stop."""
    from scanproof.numbers.expected import reader

    try:
        return reader.load(expected_folder(given))
    except ExpectedError as error:
        raise stop(f"expected values cannot be used:\n{error}") from None


def print_rows(rows: Sequence[dict[str, Any]], columns: Sequence[str], style: Format) -> None:
    """Print rows as a table of some columns, or with everything in them as JSON or CSV."""
    from scanproof.report import terminal

    if style is Format.json:
        # Inside JSON the text stays the same: what cannot be seen is written as JSON writes it.
        say(json.dumps(rows, indent=1, ensure_ascii=False))
    elif style is Format.csv:
        writer = csv.DictWriter(sys.stdout, fieldnames=list(rows[0]) if rows else list(columns))
        writer.writeheader()
        writer.writerows(
            {key: make_printable(format_cell(value), lines=True) for key, value in row.items()} for row in rows
        )
    else:
        numeric = {"line", "printed", "allowed", "detectable", "n", "measured", "difference"}
        numeric |= {"documents", "requests", "tokens", "memory_gb", "time"}
        table = terminal.plain_table(
            [(column, column in numeric) for column in columns],
            ([format_cell(row[column]) for column in columns] for row in rows),
            prose=frozenset({"values", "message", "explained", "tasks", "found", "advice"}),
        )
        console = Console()
        typer.echo(terminal.render(table, console.width if console.is_terminal else None, console.is_terminal))


def print_result(lines: Iterable[str], rows: Sequence[dict[str, Any]], style: Format) -> None:
    """Print what a command did: in sentences for people, as rows for programs."""
    if style is Format.table:
        for line in lines:
            say(line)
    else:
        print_rows(rows, (), style)


def format_cell(value: Any) -> str:
    """One value as text: names separated by commas, other lists and mappings as JSON, nothing as an empty cell."""
    if value is None:
        return ""
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return ", ".join(value)
    return json.dumps(value, ensure_ascii=False) if isinstance(value, (list, dict)) else str(value)


def format_size(count: int) -> str:
    """Bytes for people."""
    value = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{value:.4g} {unit}"
        value /= 1024
    return f"{value:.4g} TiB"
