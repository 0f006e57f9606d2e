"""`scanproof compare`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from scanproof.cli.common import (
    ExpectedOption,
    Format,
    FormatOption,
    StoreOption,
    find_run,
    load_expected,
    print_rows,
    say,
    stop,
)
from scanproof.cli.history import HERE, HistoryOption, open_or_stop, print_problems, round_for_people

if TYPE_CHECKING:
    from scanproof.history.compare import Whole

RunArgument = Annotated[str, typer.Argument(help="A run: path or id in the local store, id in the history, `latest`.")]


def compare(
    before: RunArgument,
    now: RunArgument,
    number: Annotated[
        str | None, typer.Option("--number", help="Show the documents of this number whose score differs.")
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="Also the numbers that are the same.")] = False,
    history: HistoryOption = HERE,
    store: StoreOption = Path(".scanproof"),
    expected: ExpectedOption = None,
    style: FormatOption = Format.table,
) -> None:
    """Print what differs between two runs: environment, numbers, and documents that flipped, with a p-value.

    A number is not compared, and says why, where the documents, the prompts or the answers to choose from differ.
    """
    from scanproof.history import compare as comparing
    from scanproof.history.errors import HistoryError

    loaded = load_expected(expected)
    try:
        first, second = (load_run(name, history, store) for name in (before, now))
        if number is not None:
            value = next((value for value in loaded.numbers if value.id == number), None)
            if value is None:
                raise HistoryError(f"--number: there is no number {number!r}; `scanproof list` prints them")
            columns = ("task", "doc_id", "score_before", "score_now")
            print_rows(comparing.flipped(first, second, value), columns, style)
            return
        rows = comparing.numbers(first, second, loaded.numbers, loaded.constants)
    except HistoryError as error:
        raise stop(str(error)) from None
    changes = comparing.environments(first.run, second.run)
    if style is Format.json:
        say(json.dumps({"environment": changes, "numbers": rows}, indent=1))
        return
    shown = rows if everything else [row for row in rows if differs(row)]
    if style is Format.table:
        print_rows(changes, ("what", "before", "now"), style)
        say()
    print_rows(round_for_people(shown, style), comparing.COLUMNS, style)
    if style is Format.table:
        print_left_out(rows, len(shown))


def print_left_out(rows: list[dict[str, Any]], shown: int) -> None:
    """Print what the table leaves out."""
    refused = sorted({row["because"] for row in rows if row["compared"] == "REFUSED"})
    for because in refused:
        count = sum(row["because"] == because for row in rows)
        say(f"{count} numbers {because}")
    say(f"{len(rows)} numbers, {len(rows) - shown} of them the same in both runs (--all shows them)")


def differs(row: dict[str, Any]) -> bool:
    """Whether anything about a number differs, or could not be compared."""
    same_outcome = row["outcome_before"] == row["outcome_now"]
    return bool(row["difference"] or row["gained"] or row["lost"] or row["compared"] != "SAME" or not same_outcome)


def load_run(name: str, history: str, store: Path) -> Whole:
    """A run of the local store, else of the history; stops where neither has it."""
    from scanproof.history import compare as comparing
    from scanproof.history.errors import HistoryError
    from scanproof.record import RecordError, read_run

    try:
        path = find_run(store, name)
        return comparing.from_store(read_run(path), path.parent)
    except RecordError as error:
        if "://" not in history and not Path(history).is_dir():
            raise HistoryError(str(error)) from None
    opened_history = open_or_stop(history)
    try:
        return comparing.from_history(opened_history, opened_history.find(name))
    finally:
        print_problems(opened_history)
