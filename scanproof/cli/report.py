"""`scanproof report`."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from scanproof.cli.common import ExpectedOption, StoreOption, load_expected, say, say_passed_over, stop
from scanproof.cli.history import HERE

if TYPE_CHECKING:
    from scanproof.report.content import Report
    from scanproof.report.past_nights import Since

PAGE = Path("scanproof-report.html")


class Style(StrEnum):
    """What a report is written as."""

    html = "html"
    markdown = "markdown"
    json = "json"


def report(
    run: Annotated[
        str, typer.Argument(help="A run: path or id in the local store, id in the history, or `latest`.")
    ] = "latest",
    since: Annotated[
        str | None, typer.Option("--since", help="Trends of the last so many nights, or since a day: 30, 2026-11-01.")
    ] = None,
    history: Annotated[
        str | None,
        typer.Option(
            "--history",
            envvar="SCANPROOF_HISTORY",
            help=f"Folder or URL of the earlier runs (default: {HERE} where there is one, else the local store).",
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help=f"File to write (default: {PAGE}; Markdown and JSON are printed).")
    ] = None,
    style: Annotated[Style, typer.Option("--format", help="What to write.")] = Style.html,
    store: StoreOption = Path(".scanproof"),
    expected: ExpectedOption = None,
) -> None:
    """Write a run as one HTML page, as Markdown or as JSON: verdict, heat map, trends, changed documents, environment.

    The page needs no network and no other file. The JSON follows docs/report.schema.json.
    """
    made = build_report(run, parse_nights(since), choose_history(history, store), store, expected)
    text = render_report(made, style)
    target = out or (PAGE if style is Style.html else None)
    if target is None:
        say(text, nl=False)
        return
    from scanproof import files

    try:
        with files.replace_atomically(target) as temporary:
            temporary.write_text(text, encoding="utf-8")
    except OSError as error:
        raise stop(f"--out: {target} cannot be written: {error.strerror}") from None
    say(str(target))


def parse_nights(since: str | None) -> Since | None:
    """The nights that --since asks for."""
    from scanproof.report.past_nights import parse_since

    try:
        return parse_since(since) if since is not None else None
    except ValueError:
        raise stop(f"--since is a number of nights or a day such as 2026-11-01, not {since!r}") from None


def choose_history(given: str | None, store: Path) -> str | None:
    """The history that is named, or the one that lies in the local store."""
    if given is not None:
        if "://" not in given and not Path(given).is_dir():
            raise stop(f"--history: there is no folder {given}")
        return given
    inside = store / Path(HERE).name
    return str(inside) if inside.is_dir() else None


def build_report(run: str, since: Since | None, history: str | None, store: Path, expected: Path | None) -> Report:
    """The report of a run; stops where there is no such run."""
    from scanproof.history.errors import HistoryError
    from scanproof.history.store import open_history
    from scanproof.record import RUN_FILE, RecordError
    from scanproof.report import past_nights
    from scanproof.report.gather import Reporter

    try:
        shown, folder = past_nights.find_run(run, store / "runs", open_history(history) if history else None)
    except (HistoryError, RecordError) as error:
        raise stop(str(error)) from None
    if run == "latest" and folder is not None:
        say_passed_over(folder / RUN_FILE)
    loaded = load_expected(expected)
    return Reporter(run=shown, folder=folder, store=store, expected=loaded, history=history, since=since).report()


def render_report(made: Report, style: Style) -> str:
    """The report as the text of the file that is written."""
    from scanproof import files
    from scanproof.report import markdown, page

    if style is Style.markdown:
        return markdown.render(made)
    if style is Style.json:
        return files.to_json(made).decode() + "\n"
    return page.render(made)
