"""`scanproof calibrate`."""

from __future__ import annotations

from typing import Annotated, Any

import typer
import yaml

from scanproof.cli.common import ExpectedOption, Format, FormatOption, load_expected, print_result, print_rows, stop


def calibrate(
    check: Annotated[
        bool, typer.Option("--check", help="Only say whether tolerance.yaml still follows from the printed pairs.")
    ] = False,
    expected: ExpectedOption = None,
    style: FormatOption = Format.table,
) -> None:
    """Estimate the constants of the tolerance from the pairs of printed numbers, as tolerance.yaml writes them."""
    from datetime import date

    from scanproof.numbers.audit import calibration

    loaded = load_expected(expected)
    try:
        result = calibration.calibrate(loaded)
    except ValueError as error:
        raise stop(str(error)) from None
    if not check:
        text = calibration.calibration_yaml(result, date.today().isoformat())
        if style is Format.table:
            typer.echo(text, nl=False)
        else:
            print_rows(flatten_entries(yaml.safe_load(text)), ("entry", "value"), style)
        return
    wrong = calibration.disagreements(result, loaded.constants)
    lines = wrong or ("tolerance.yaml agrees with the printed pairs",)
    print_result(lines, [{"disagreement": line} for line in wrong], style)
    if wrong:
        raise typer.Exit(1)


def flatten_entries(entries: dict[str, Any], before: str = "") -> list[dict[str, Any]]:
    """The entries of tolerance.yaml as rows, each named by its path of keys."""
    flat: list[dict[str, Any]] = []
    for name, entry in entries.items():
        if isinstance(entry, dict):
            flat += flatten_entries(entry, f"{before}{name}.")
        else:
            # JSON has no dates.
            value = entry if isinstance(entry, (int, float, list)) else str(entry)
            flat.append({"entry": before + name, "value": value})
    return flat
