"""`scanproof list`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from scanproof.cli.common import (
    DocumentOption,
    ExpectedOption,
    Format,
    FormatOption,
    ModelOption,
    find_run,
    load_expected,
    print_rows,
    say,
    stop,
)


def list_values(
    style: FormatOption = Format.table,
    document: DocumentOption = None,
    model: ModelOption = None,
    run: Annotated[
        str | None, typer.Option("--run", help="Show the verdicts of a run: its path, its id, or `latest`.")
    ] = None,
    unrecorded: Annotated[
        bool, typer.Option("--unrecorded", help="Show the numbers that `scanproof record` has still to write.")
    ] = False,
    jobs: Annotated[bool, typer.Option("--jobs", help="Show the evaluation jobs instead of the numbers.")] = False,
    expected: ExpectedOption = None,
    store: Annotated[
        Path, typer.Option("--store", envvar="SCANPROOF_STORE", help="Folder that holds the runs.")
    ] = Path(".scanproof"),
) -> None:
    """Print the published numbers, what each allows and can detect (`--document embedded`: the stand-ins')."""
    from scanproof.cli import listing
    from scanproof.evaluation.planning import job_rows
    from scanproof.record import RecordError, read_run

    loaded = load_expected(expected)
    known = [entry.number for entry in loaded.documents]
    for number in document or []:
        if number not in known:
            raise stop(f"--document: there is no document {number!r}; there are {', '.join(known)}")
    try:
        shown = read_run(find_run(store, run)) if run else None
    except RecordError as error:
        raise stop(str(error)) from None
    published = [
        value
        for value in (loaded.unrecorded if unrecorded else loaded.numbers if shown else loaded.values)
        if (shown or document or value.job.suite != "embedded") and listing.matches(value, document or [], model or [])
    ]
    if model and not published:
        raise stop(f"--model: no model here holds {' or '.join(model)!r} in its name or hub id")
    if jobs:
        print_rows(
            job_rows.job_rows(published), ("job", "model_class", "pretrained", "dtype", "tasks", "values"), style
        )
        return
    columns: tuple[str, ...] = listing.COLUMNS
    if shown:
        columns = ("id", "printed", "measured", "difference", "allowed", "status")
    print_rows(listing.make_value_rows(published, loaded.constants, shown), columns, style)
    if style is Format.table and not shown:
        for line in listing.describe_together(published, loaded.constants):
            say(line)
