"""`scanproof history`, with show, add, trend, drift, prune and export."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from scanproof.cli.common import (
    ExpectedOption,
    Format,
    FormatOption,
    StoreOption,
    find_run,
    format_size,
    load_expected,
    print_result,
    print_rows,
    say,
    stop,
)

if TYPE_CHECKING:
    from scanproof.history.store import History, Published

HistoryOption = Annotated[
    str,
    typer.Option("--history", envvar="SCANPROOF_HISTORY", help="Folder or URL (s3://..., through fsspec) of the runs."),
]
GpuOption = Annotated[str | None, typer.Option("--gpu", help="Only runs on a GPU whose name holds this; `cpu`.")]
BranchOption = Annotated[str | None, typer.Option("--branch", help="Only runs of this branch.")]
PackageOption = Annotated[
    list[str] | None, typer.Option("--package", help="Only runs with this version: torch=2.13. Can be repeated.")
]
HERE = ".scanproof/history"
NUMBER_COLUMNS = ("id", "printed", "measured", "difference", "allowed", "outcome", "gate", "because")

app = typer.Typer(no_args_is_help=False, invoke_without_command=True, pretty_exceptions_enable=False)


def open_or_stop(name: str) -> History:
    """The history, or what is wrong with its name."""
    from scanproof.history.errors import HistoryError
    from scanproof.history.store import open_history

    if "://" not in name and not Path(name).is_dir():
        raise stop(
            f"there is no history in {name}: name one with --history DIR_OR_URL, or let a session publish its run "
            f"with pytest --scanproof-history={name}"
        )
    try:
        return open_history(name)
    except HistoryError as error:
        raise stop(str(error)) from None


def find_or_stop(history: History, name: str) -> Published:
    """A run by its id, or `latest`; stops where there is none."""
    from scanproof.history.errors import HistoryError

    try:
        return history.find(name)
    except HistoryError as error:
        raise stop(str(error)) from None


def select_or_stop(
    history: History, gpu: str | None, branch: str | None, packages: list[str] | None
) -> list[Published]:
    """The runs that `--gpu`, `--branch` and `--package` choose; stops where an option is not written right."""
    from scanproof.history import queries
    from scanproof.history.errors import HistoryError

    try:
        return queries.select(history.runs(), gpu=gpu, branch=branch, packages=packages or [])
    except HistoryError as error:
        raise stop(str(error)) from None


def round_for_people(rows: Sequence[dict[str, Any]], style: Format) -> list[dict[str, Any]]:
    """Rows with numbers of six digits in a table, and all their digits for programs."""
    if style is not Format.table:
        return list(rows)
    return [{key: f"{cell:.6g}" if isinstance(cell, float) else cell for key, cell in row.items()} for row in rows]


def print_problems(history: History) -> None:
    """Name what was skipped, on stderr, so that JSON stays JSON."""
    for problem in history.problems:
        say(f"scanproof: {problem}", err=True)


@app.callback()
def runs(
    context: typer.Context,
    history: HistoryOption = HERE,
    gpu: GpuOption = None,
    branch: BranchOption = None,
    package: PackageOption = None,
    style: FormatOption = Format.table,
) -> None:
    """Print the published runs, oldest first; filter them by GPU, branch or package version.

    `failed` counts numbers, `failures` the reasons why the run is not green, numbers among them.
    """
    if context.invoked_subcommand is not None:
        context.obj = history
        return
    from scanproof.history import queries

    opened_history = open_or_stop(history)
    rows = [queries.run_row(run) for run in select_or_stop(opened_history, gpu, branch, package)]
    if style is Format.table:
        # Their words are long; `show` prints them.
        rows = [{**row, "failures": None if row["failures"] is None else len(row["failures"])} for row in rows]
    print_rows(rows, queries.RUN_COLUMNS, style)
    print_problems(opened_history)


@app.command("show", epilog="Example: scanproof history show latest --format json")
def show(
    run: Annotated[str, typer.Argument(help="Id of a run, the beginning of one, or `latest`.")],
    history: HistoryOption = HERE,
    style: FormatOption = Format.table,
) -> None:
    """Print every number of a run with what both gates said, and every reason why the run is not green."""
    from scanproof.history import queries, run_failures

    opened_history = open_or_stop(history)
    published = find_or_stop(opened_history, run)
    rows = queries.verdicts(opened_history, published)
    # Not shown, and named where they are not those that were published.
    opened_history.read(published, "samples")
    print_rows(round_for_people(rows, style), NUMBER_COLUMNS, style)
    for line in run_failures.list_published_failures(published.manifest) or ():
        # Beside the rows of a program, and below those of a person.
        say(f"not green: {line}", err=style is not Format.table)
    print_problems(opened_history)
    if not rows and opened_history.problems:
        # Nothing to show is not the same as nothing that can be read.
        raise typer.Exit(1)


@app.command("add", epilog="Example: scanproof history add latest --history s3://bucket/scanproof")
def add(
    run: Annotated[str, typer.Argument(help="A run of the local store: its path, its id, or `latest`.")],
    history: HistoryOption = HERE,
    store: StoreOption = Path(".scanproof"),
    style: FormatOption = Format.table,
) -> None:
    """Publish a run of the local store; repeating it is harmless."""
    from scanproof.history.errors import HistoryError
    from scanproof.history.persistence import explain_unkept
    from scanproof.history.publish import publish
    from scanproof.history.storage import open_place
    from scanproof.record import RecordError

    # The one in the store is made with the first run.
    if history != HERE and (missing := explain_unkept(history)) is not None:
        raise stop(f"not published: --history: {missing}")
    try:
        name = publish(find_run(store, run), open_place(history))
    except (HistoryError, RecordError) as error:
        raise stop(f"not published: {error}") from None
    print_result([f"{name} is in {history}"], [{"run": name, "history": history}], style)


@app.command("trend", epilog="Example: scanproof history trend mamba-130m-piqa-acc-paper --gpu H200")
def trend(
    number: Annotated[str, typer.Argument(help="Id of a number, as `scanproof list` prints it.")],
    history: HistoryOption = HERE,
    gpu: GpuOption = None,
    branch: BranchOption = None,
    package: PackageOption = None,
    style: FormatOption = Format.table,
) -> None:
    """Print one number over the nights, oldest first."""
    from scanproof.history import queries

    opened_history = open_or_stop(history)
    runs = select_or_stop(opened_history, gpu, branch, package)
    rows = queries.trend(opened_history, runs, number)
    if not rows:
        print_problems(opened_history)
        raise stop(f"no run of {len(runs)} holds a number {number!r}")
    print_rows(
        round_for_people(rows, style), ("started", "run", "measured", "expected", "allowed", "outcome", "gate"), style
    )
    print_problems(opened_history)


@app.command("drift", epilog="Example: scanproof history drift --format json")
def drift(
    history: HistoryOption = HERE,
    fewest: Annotated[
        int | None,
        typer.Option("--fewest", min=1, help="Nights that are enough (default: those that a drift needs)."),
    ] = None,
    declared: Annotated[
        bool, typer.Option("--declared", help="A run on the newest night's GPU has to be declared a baseline.")
    ] = False,
    style: FormatOption = Format.table,
    expected: ExpectedOption = None,
) -> None:
    """Print numbers and models that drift over the nights, each with the night it began; exit code 1 if any does.

    Nights are whole runs; each GPU has its own series.  That of a number begins with the baseline of its job there.
    Exit code 1 is also damage in the history, and a number with too few nights on as many documents as its newest.

    Fewer nights than `--fewest` on the newest night's GPU are 2, and so are enough nights without a series: nothing to
    look at is not the same as no drift.  With `--declared` so is a history without a baseline on that GPU: nothing is
    compared with it, and the one that had a baseline may be lost.
    """
    from scanproof.cli import drift_verdict
    from scanproof.history import nights

    opened_history = open_or_stop(history)
    found = nights.drifts(opened_history, load_expected(expected).constants)
    print_rows(found.rows, ("series", "gpu", "began", "run", "shape", "before", "now", "allowed", "nights"), style)
    print_problems(opened_history)
    # Beside the rows of a program, and below those of a person.
    drift_verdict.say_how_much(found, err=style is not Format.table)
    drift_verdict.say_not_looked_at(found)
    drift_verdict.end(opened_history, found, fewest, declared=declared)


@app.command("prune", epilog="Example: scanproof history prune --days 400 --samples --yes")
def prune(
    days: Annotated[int | None, typer.Option("--days", min=1, help="Runs older than this many days.")] = None,
    history: HistoryOption = HERE,
    samples: Annotated[bool, typer.Option("--samples", help="Delete only samples, keep the numbers.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Delete; without it, only say what would be deleted.")] = False,
    style: FormatOption = Format.table,
) -> None:
    """Delete old runs, or their samples, and publications that were stopped; never a run that a baseline names.

    Without `--days` only publications that were stopped.
    """
    from scanproof.history import prune as pruning
    from scanproof.history.errors import HistoryError

    if samples and days is None:
        raise stop("--samples needs --days: how old the runs are whose samples are deleted")
    opened_history = open_or_stop(history)
    before = None if days is None else datetime.now(UTC) - timedelta(days=days)
    doomed = pruning.plan(opened_history, before, samples_only=samples)
    rows = [{"run": entry.run, "what": entry.what, "size": format_size(entry.size)} for entry in doomed]
    print_rows(rows, ("run", "what", "size"), style)
    print_problems(opened_history)
    freed = format_size(sum(entry.size for entry in doomed))
    if not yes:
        say(f"{len(doomed)} would be deleted, {freed}; --yes deletes them", err=True)
        return
    try:
        pruning.carry_out(opened_history, doomed)
    except HistoryError as error:
        raise stop(str(error)) from None
    say(f"{len(doomed)} deleted, {freed}", err=True)


@app.command("export", epilog="Example: scanproof history export exported --branch main")
def export(
    folder: Annotated[Path, typer.Argument(help="Folder to write to; made where it is missing.")],
    history: HistoryOption = HERE,
    gpu: GpuOption = None,
    branch: BranchOption = None,
    package: PackageOption = None,
    written: Annotated[str, typer.Option("--as", help="What the files are: parquet, csv or json.")] = "parquet",
    style: FormatOption = Format.table,
) -> None:
    """Write runs and numbers as one table each, for other programs: runs.parquet and numbers.parquet."""
    from scanproof.history import export as exporting
    from scanproof.history.errors import HistoryError

    opened_history = open_or_stop(history)
    runs = select_or_stop(opened_history, gpu, branch, package)
    try:
        files = exporting.write(opened_history, runs, folder, written)
    except (HistoryError, OSError) as error:
        raise stop(str(error)) from None
    print_result(map(str, files), [{"file": str(file)} for file in files], style)
    print_problems(opened_history)
