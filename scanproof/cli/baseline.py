"""`scanproof baseline`, with set."""

from __future__ import annotations

from typing import Annotated

import typer

from scanproof.cli.common import Format, FormatOption, print_result, print_rows, stop
from scanproof.cli.history import HERE, HistoryOption, find_or_stop, open_or_stop, print_problems

app = typer.Typer(invoke_without_command=True, pretty_exceptions_enable=False)


@app.callback()
def baselines(context: typer.Context, history: HistoryOption = HERE, style: FormatOption = Format.table) -> None:
    """Print every baseline that was declared, oldest first, and for how many evaluations it still holds."""
    if context.invoked_subcommand is not None:
        return
    from scanproof.history import baseline

    opened_history = open_or_stop(history)
    declared = baseline.list_declarations(opened_history)
    holds = baseline.find_current(declared)
    rows = [
        {
            "run": declaration.run,
            "declared": declaration.content["declared"],
            "evaluations": len(declaration.evaluations),
            "holds": sum(current.id == declaration.id for current in holds.values()),
            "reason": declaration.content["reason"],
        }
        for declaration in declared
    ]
    print_rows(rows, ("run", "declared", "evaluations", "holds", "reason"), style)
    print_problems(opened_history)


@app.command("set", epilog="Example: scanproof baseline set latest --reason 'first clean night on the H200'")
def declare(
    run: Annotated[str, typer.Argument(help="Id of a published run, the beginning of one, or `latest`.")],
    reason: Annotated[str, typer.Option("--reason", help="Why this run is good; kept with it.")],
    fewer: Annotated[
        bool, typer.Option("--fewer", help="Tasks that the baselines before hold and this run lacks have none then.")
    ] = False,
    history: HistoryOption = HERE,
    style: FormatOption = Format.table,
) -> None:
    """Declare a run good: from now on every evaluation is compared with its own, document by document.

    Refused for a run that failed, is partial or limited, was not strict, may have run a fallback, or lacks tasks of a
    job that the job's baseline holds.
    """
    from scanproof.history import baseline
    from scanproof.history.errors import HistoryError

    opened_history = open_or_stop(history)
    try:
        made = baseline.declare(opened_history, find_or_stop(opened_history, run), reason, fewer=fewer)
    except HistoryError as error:
        print_problems(opened_history)
        raise stop(str(error), code=1) from None
    line = f"{made.run} is the baseline of {len(made.evaluations)} evaluations"
    print_result([line], [{"run": made.run, "evaluations": len(made.evaluations), "reason": reason}], style)
    print_problems(opened_history)
