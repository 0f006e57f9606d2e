"""The command line: `scanproof list`, `audit`, `calibrate`, `prefetch`, `schema`."""

from __future__ import annotations

import csv
import json
import os
import sys
from collections.abc import Sequence
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from scanproof import __version__
from scanproof.problems import ExpectedError

if TYPE_CHECKING:
    from scanproof.expected import Expected
    from scanproof.prefetch import Fetched

app = typer.Typer(
    no_args_is_help=True,
    invoke_without_command=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


class Format(str, Enum):
    """How rows are printed."""

    table = "table"
    json = "json"
    csv = "csv"


ExpectedOption = Annotated[
    Path | None,
    typer.Option("--expected", help="Folder of expected values (default: ./expected, else the one shipped)."),
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


def stop(message: str, code: int = 2) -> typer.Exit:
    """Say what is wrong on stderr; raise the result."""
    typer.echo(f"scanproof: {message}", err=True)
    return typer.Exit(code)


def expected_folder(given: Path | None) -> Path:
    """The folder of expected values: the one given, `./expected`, the clone's, the one shipped."""
    from scanproof.settings import PACKAGED_EXPECTED

    if given is not None:
        if not given.is_dir():
            raise stop(f"--expected: there is no folder {given}")
        return given
    clone = Path(__file__).parent.parent / "expected"
    for folder in (Path("expected"), clone, PACKAGED_EXPECTED):
        if (folder / "tolerance.yaml").is_file():
            return folder
    raise stop("there is no folder `expected` here; name one with --expected DIR")


def load(given: Path | None) -> Expected:
    """Load expected values, or say every mistake in them and stop."""
    from scanproof import expected

    try:
        return expected.load(expected_folder(given))
    except ExpectedError as error:
        raise stop(f"expected values cannot be used:\n{error}") from None


def print_rows(rows: Sequence[dict[str, Any]], columns: Sequence[str], style: Format) -> None:
    """Print rows as a table of some columns, or with everything in them as JSON or CSV."""
    from scanproof import tables

    if style is Format.json:
        typer.echo(json.dumps(rows, indent=1, ensure_ascii=False))
    elif style is Format.csv:
        writer = csv.DictWriter(sys.stdout, fieldnames=list(rows[0]) if rows else list(columns))
        writer.writeheader()
        writer.writerows({key: cell(value) for key, value in row.items()} for row in rows)
    else:
        numeric = {"line", "printed", "allowed", "detectable", "n", "measured", "difference"}
        table = tables.plain_table(
            [(column, column in numeric) for column in columns],
            ([cell(row[column]) for column in columns] for row in rows),
            prose=frozenset({"values", "message", "explained", "tasks"}),
        )
        console = Console()
        typer.echo(tables.render(table, console.width if console.is_terminal else None, console.is_terminal))


def cell(value: Any) -> str:
    """One value as text: names separated by commas, other lists and mappings as JSON, nothing as an empty cell."""
    if value is None:
        return ""
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return ", ".join(value)
    return json.dumps(value, ensure_ascii=False) if isinstance(value, (list, dict)) else str(value)


@app.command("list", epilog="Example: scanproof list --document 001 --model mamba-130m --format json")
def list_values(
    style: FormatOption = Format.table,
    document: DocumentOption = None,
    model: ModelOption = None,
    run: Annotated[
        str | None, typer.Option("--run", help="Show the verdicts of a run: its path, its id, or `latest`.")
    ] = None,
    jobs: Annotated[bool, typer.Option("--jobs", help="Show the evaluation jobs instead of the numbers.")] = False,
    expected: ExpectedOption = None,
    store: Annotated[
        Path, typer.Option("--store", envvar="SCANPROOF_STORE", help="Folder that holds the runs.")
    ] = Path(".scanproof"),
) -> None:
    """Print the published numbers, what each allows and can detect (`--document embedded`: the stand-ins')."""
    from scanproof import listing
    from scanproof.record import RecordError, find_run, read_run

    loaded = load(expected)
    known = [entry.number for entry in loaded.documents]
    for number in document or []:
        if number not in known:
            raise stop(f"--document: there is no document {number!r}; there are {', '.join(known)}")
    try:
        shown = read_run(find_run(store / "runs", run)) if run else None
    except RecordError as error:
        raise stop(str(error)) from None
    published = [
        value
        for value in loaded.values
        if (shown or document or value.job.suite != "embedded") and listing.matches(value, document or [], model or [])
    ]
    if model and not published:
        raise stop(f"--model: no model here holds {' or '.join(model)!r} in its name or hub id")
    if jobs:
        print_rows(listing.job_rows(published), ("job", "model_class", "pretrained", "dtype", "tasks", "values"), style)
        return
    columns: tuple[str, ...] = listing.COLUMNS
    if shown:
        columns = ("id", "printed", "measured", "difference", "allowed", "status")
    print_rows(listing.value_rows(published, loaded.constants, shown), columns, style)


@app.command(epilog="Example: scanproof audit --format json")
def audit(style: FormatOption = Format.table, expected: ExpectedOption = None) -> None:
    """Ask whether the published numbers are possible and consistent; exit code 1 for what nobody has explained."""
    from scanproof import audit as auditing

    findings = auditing.audit(load(expected))
    print_rows(auditing.audit_rows(findings), auditing.COLUMNS, style)
    unexplained = [finding for finding in findings if finding.explained is None]
    typer.echo(f"{len(findings)} findings, {len(unexplained)} not explained in the expected values", err=True)
    if unexplained:
        raise typer.Exit(1)


@app.command(epilog="Example: scanproof calibrate --check")
def calibrate(
    check: Annotated[
        bool, typer.Option("--check", help="Only say whether tolerance.yaml still follows from the printed pairs.")
    ] = False,
    expected: ExpectedOption = None,
) -> None:
    """Estimate the constants of the tolerance from the pairs of printed numbers, as tolerance.yaml writes them."""
    from datetime import date

    from scanproof import calibration

    loaded = load(expected)
    try:
        result = calibration.calibrate(loaded)
    except ValueError as error:
        raise stop(str(error)) from None
    if not check:
        typer.echo(calibration.calibration_yaml(result, date.today().isoformat()), nl=False)
        return
    wrong = calibration.disagreements(result, loaded.constants)
    for line in wrong or ("tolerance.yaml agrees with the printed pairs",):
        typer.echo(line)
    if wrong:
        raise typer.Exit(1)


@app.command(epilog="Example: scanproof prefetch --model mamba-130m --mirror /srv/mirror")
def prefetch(
    mirror: Annotated[Path, typer.Option("--mirror", envvar="SCANPROOF_MIRROR", help="Folder to fill.")],
    document: DocumentOption = None,
    model: ModelOption = None,
    dataset: Annotated[
        list[str] | None, typer.Option("--dataset", help="Only this dataset of what is needed; can be repeated.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be fetched, and stop.")] = False,
    expected: ExpectedOption = None,
) -> None:
    """Fill a mirror with the checkpoints and datasets of the chosen numbers; resumes after an interruption."""
    from scanproof import listing
    from scanproof.download import PrefetchError
    from scanproof.prefetch import plan_prefetch, run_prefetch

    values = [
        value
        for value in load(expected).values
        if value.job.suite == "gpu" and listing.matches(value, document or [], model or [])
    ]
    if not values:
        raise stop("no number was chosen: see `scanproof list` for documents and models")
    try:
        plan = plan_prefetch((job for job, _ in listing.jobs(values)), datasets=dataset)
        if not plan.repositories:
            raise stop(f"--dataset: none of the chosen numbers needs {' or '.join(dataset or [])}")
        rows = [
            {"repository": r.name, "kind": r.kind, "revision": r.revision, "files": len(r.files), "size": size(r.bytes)}
            for r in plan.repositories
        ]
        print_rows(rows, ("repository", "kind", "revision", "files", "size"), Format.table)
        typer.echo(f"{size(plan.bytes)} in all")
        if not dry_run:
            run_prefetch(plan, mirror, FetchLine())
            typer.echo(f"the mirror {mirror} is complete; use it with --scanproof-mirror={mirror}")
    except PrefetchError as error:
        raise stop(str(error)) from None


def size(count: int) -> str:
    """Bytes for people."""
    value = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{value:.4g} {unit}"
        value /= 1024
    return f"{value:.4g} TiB"


class FetchLine:
    """Shows a download: one line that is rewritten on a terminal, else a line per file."""

    def __init__(self) -> None:
        self.file = ""

    def __call__(self, fetched: Fetched) -> None:
        text = f"{size(fetched.done)} of {size(fetched.total)}: {fetched.repository} {fetched.file}"
        if sys.stderr.isatty():
            typer.echo(f"\r{text:<100.100}", nl=False, err=True)
        elif fetched.file != self.file:
            typer.echo(text, err=True)
        self.file = fetched.file


@app.command(
    "lm-eval",
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []},
    epilog="Example: scanproof lm-eval run --model mamba_ssm --model_args pretrained=DIR --tasks piqa --device cpu",
)
def lm_eval(context: typer.Context) -> None:
    """Call lm-eval's own command line with scanproof's model classes registered; every argument is lm-eval's."""
    command = [sys.executable, "-m", "scanproof.passthrough", *context.args]
    os.execv(sys.executable, command)


@app.command(epilog="Example: scanproof schema expected/schema")
def schema(folder: Annotated[Path, typer.Argument(help="Folder to write the JSON Schemas to.")]) -> None:
    """Write the JSON Schemas of the expected files, for editors."""
    from scanproof import schema as schemas

    folder.mkdir(parents=True, exist_ok=True)
    for path in schemas.write_schemas(folder):
        typer.echo(str(path))


@app.callback()
def version(
    show: Annotated[bool, typer.Option("--version", help="Show the version and stop.", is_eager=True)] = False,
) -> None:
    """Do Mamba's published numbers still come out, and are its scan kernels still right?"""
    if show:
        typer.echo(f"scanproof {__version__}")
        raise typer.Exit()


def main() -> None:
    """Entry point of the `scanproof` command."""
    app()


if __name__ == "__main__":
    main()
