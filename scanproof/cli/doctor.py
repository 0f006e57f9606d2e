"""`scanproof doctor`."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from scanproof.cli.common import Format, FormatOption, print_rows


def doctor(
    style: FormatOption = Format.table,
    providers: Annotated[
        bool, typer.Option("--providers", help="List the operations by who provides them, and nothing else.")
    ] = False,
) -> None:
    """Say which kernels are real on this machine, which would fall back and what to install; exit code 1 if a run
    on the GPU would be incomplete."""
    from scanproof.kernels import doctor as checks
    from scanproof.kernels.launches import machine

    if providers:
        from scanproof.kernels.providers import by_operation

        listed = by_operation.list_providers(machine.examine())
        print_rows(listed, tuple(listed[0]), style)
        return
    rows = checks.diagnose(machine.examine())
    print_rows([asdict(row) for row in rows], checks.COLUMNS, style)
    missing = checks.missing_rows(rows)
    if missing:
        names = ", ".join(dict.fromkeys(row.what for row in missing))
        typer.echo(f"a run on the GPU would be incomplete here: {names}", err=True)
        raise typer.Exit(1)
    typer.echo("a run on the GPU would be complete here", err=True)
