"""`scanproof schema`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

REPORT = "report.schema.json"


def schema(
    folder: Annotated[Path, typer.Argument(help="Folder to write the JSON Schemas to.")],
    report: Annotated[
        bool, typer.Option("--report", help="The schema of `scanproof report --format json` instead.")
    ] = False,
) -> None:
    """Write the JSON Schemas of the expected files, for editors; with --report that of a report, for programs."""
    from scanproof import schema as schemas

    folder.mkdir(parents=True, exist_ok=True)
    if report:
        from scanproof.report import content

        (folder / REPORT).write_text(json.dumps(content.json_schema(), indent=1) + "\n")
        typer.echo(str(folder / REPORT))
        return
    for path in schemas.write_schemas(folder):
        typer.echo(str(path))
