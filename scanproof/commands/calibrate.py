"""`scanproof calibrate`."""

from __future__ import annotations

from typing import Annotated

import typer

from scanproof.commands.common import ExpectedOption, load, stop


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
