"""`scanproof prefetch`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from scanproof.cli.common import (
    DocumentOption,
    ExpectedOption,
    Format,
    FormatOption,
    ModelOption,
    format_size,
    load_expected,
    print_rows,
    say,
    stop,
)
from scanproof.printable import make_printable

if TYPE_CHECKING:
    from scanproof.evaluation.hub.prefetch import DownloadProgress


def prefetch(
    mirror: Annotated[Path, typer.Option("--mirror", envvar="SCANPROOF_MIRROR", help="Folder to fill.")],
    document: DocumentOption = None,
    model: ModelOption = None,
    dataset: Annotated[
        list[str] | None, typer.Option("--dataset", help="Only this dataset of what is needed; can be repeated.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be fetched, and stop.")] = False,
    expected: ExpectedOption = None,
    style: FormatOption = Format.table,
) -> None:
    """Fill a mirror with the checkpoints and datasets of the chosen numbers; resumes after an interruption."""
    from scanproof.cli import listing
    from scanproof.evaluation.hub.download import PrefetchError
    from scanproof.evaluation.hub.prefetch import plan_prefetch, run_prefetch
    from scanproof.evaluation.planning import job_rows

    values = [
        value
        for value in load_expected(expected).numbers
        if value.job.suite == "gpu" and listing.matches(value, document or [], model or [])
    ]
    if not values:
        raise stop("no number was chosen: see `scanproof list` for documents and models")
    try:
        plan = plan_prefetch((job for job, _ in job_rows.jobs(values)), datasets=dataset)
        if not plan.repositories and not plan.scripts:
            raise stop(f"--dataset: none of the chosen numbers needs {' or '.join(dataset or [])}")
        rows = [
            {
                "repository": r.name, "kind": r.kind, "revision": r.revision, "files": len(r.files),
                "size": format_size(r.bytes), "bytes": r.bytes,
            }
            for r in plan.repositories
        ]  # fmt: skip
        print_rows(rows, ("repository", "kind", "revision", "files", "size"), style)
        # Rows for programs stay alone on stdout.
        to_stderr = style is not Format.table
        say(f"{format_size(plan.bytes)} in all", err=to_stderr)
        if not dry_run:
            run_prefetch(plan, mirror, FetchLine())
        lacking = [name for name in plan.scripts if not (mirror / name).is_dir()]
        for name in lacking:
            say(explain_script(name, mirror), err=True)
        if not dry_run:
            whole = f"has all but {', '.join(lacking)}" if lacking else "is complete"
            say(f"the mirror {mirror} {whole}; use it with --scanproof-mirror={mirror}", err=to_stderr)
    except PrefetchError as error:
        raise stop(str(error)) from None


def explain_script(name: str, mirror: Path) -> str:
    """Why a dataset is not fetched whose repository is a script, and how else it gets into the mirror."""
    from scanproof.evaluation.hub.mirror import PUBMEDQA, prefetch_command

    remedy = f"run {prefetch_command(name, 'dataset')}" if name == PUBMEDQA else f"put its rows into {mirror / name}"
    return f"{name} is not fetched: its repository is a script, which is not run; {remedy}"


class FetchLine:
    """Shows a download: one line that is rewritten on a terminal, else a line per file."""

    def __init__(self) -> None:
        self.file = ""

    def __call__(self, fetched: DownloadProgress) -> None:
        text = f"{format_size(fetched.done)} of {format_size(fetched.total)}: {fetched.repository} {fetched.file}"
        if sys.stderr.isatty():
            typer.echo(f"\r{make_printable(text):<100.100}", nl=False, err=True)
        elif fetched.file != self.file:
            say(text, err=True)
        self.file = fetched.file
