"""`scanproof audit`."""

from __future__ import annotations

import typer

from scanproof.cli.common import ExpectedOption, Format, FormatOption, load_expected, print_rows


def audit(style: FormatOption = Format.table, expected: ExpectedOption = None) -> None:
    """Ask whether the published numbers are possible and consistent; exit code 1 for what nobody has explained."""
    from scanproof.numbers.audit import audit as auditing

    findings = auditing.audit(load_expected(expected))
    print_rows(auditing.audit_rows(findings), auditing.COLUMNS, style)
    unexplained = [finding for finding in findings if finding.explained is None]
    typer.echo(f"{len(findings)} findings, {len(unexplained)} not explained in the expected values", err=True)
    if unexplained:
        raise typer.Exit(1)
