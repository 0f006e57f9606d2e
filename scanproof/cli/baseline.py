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
    from scanproof.history import declarations

    opened_history = open_or_stop(history)
    declared = declarations.list_declarations(opened_history)
    holds = declarations.find_current(declared)
    rows = [
        {
            "run": declaration.run,
            "declared": declaration.content["declared"],
            "evaluations": len(declaration.evaluations),
            "holds": sum(current.id == declaration.id for current in holds.values()),
            "without": " ".join(sorted({each.task for each in declaration.without})),
            "reason": declaration.content["reason"],
        }
        for declaration in declared
    ]
    print_rows(rows, ("run", "declared", "evaluations", "holds", "without", "reason"), style)
    print_problems(opened_history)


@app.command("set", epilog="Example: scanproof baseline set latest --reason 'first clean night on the H200'")
def declare(
    run: Annotated[str, typer.Argument(help="Id of a published run, the beginning of one, or `latest`.")],
    reason: Annotated[str, typer.Option("--reason", help="Why this run is good; kept with it.")],
    without: Annotated[
        list[str] | None,
        typer.Option(
            "--without",
            metavar="TASK",
            help="A task, or pattern such as 'mmlu_*', that a baseline before holds, this run lacks, and that is to be "
            "compared no more; JOB:TASK means one job. Repeatable.",
        ),
    ] = None,
    give_up: Annotated[
        list[str] | None,
        typer.Option(
            "--give-up",
            metavar="ID",
            help="A declaration that is gone or damaged, and is to be looked for no more: what it held has no baseline "
            "until a run of it is declared. Repeatable.",
        ),
    ] = None,
    history: HistoryOption = HERE,
    style: FormatOption = Format.table,
) -> None:
    """Declare a run good: from now on every evaluation is compared with its own, document by document.

    Refused for a run that failed, is partial or limited, was not strict, may have run a fallback, or lacks tasks of a
    job that the job's baseline holds.
    """
    from scanproof.history import new_baseline
    from scanproof.history.declarations import ALL
    from scanproof.history.errors import HistoryError

    opened_history = open_or_stop(history)
    try:
        made = new_baseline.declare(
            opened_history, find_or_stop(opened_history, run), reason, without=without or (), give_up=give_up or ()
        )
    except HistoryError as error:
        print_problems(opened_history)
        raise stop(str(error), code=1) from None
    lines = [f"{made.run} is the baseline of {len(made.evaluations)} evaluations"]
    lines += [
        f"compared no more: {'whatever this run lacks' if each.task == ALL else each.task} of {each.job} on {each.gpu}"
        for each in sorted(made.without)
    ]
    lines += [f"given up: {each}; what it held has no baseline until a run of it is declared" for each in give_up or ()]
    tasks = sorted({each.task for each in made.without})
    row = {"run": made.run, "evaluations": len(made.evaluations), "without": " ".join(tasks), "reason": reason}
    print_result(lines, [row], style)
    print_problems(opened_history)
