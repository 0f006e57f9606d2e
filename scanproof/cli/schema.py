"""`scanproof schema`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from scanproof.cli.common import Format, FormatOption, print_result, stop

REPORT = "report.schema.json"


def schema(
    folder: Annotated[Path, typer.Argument(help="Folder to write the JSON Schemas to.")],
    report: Annotated[
        bool, typer.Option("--report", help="The schema of `scanproof report --format json` instead.")
    ] = False,
    style: FormatOption = Format.table,
) -> None:
    """Write the JSON Schemas of the expected files, for editors; with --report that of a report, for programs."""
    from scanproof.numbers.expected import schema as schemas

    try:
        folder.mkdir(parents=True, exist_ok=True)
        if report:
            from scanproof.report import content

            (folder / REPORT).write_text(json.dumps(content.json_schema(), indent=1) + "\n")
            files = [folder / REPORT]
        else:
            files = list(schemas.write_schemas(folder))
    except OSError as error:
        raise stop(f"{folder} cannot be written: {error.strerror}") from None
    print_result(map(str, files), [{"file": str(path)} for path in files], style)
