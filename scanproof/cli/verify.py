"""`scanproof verify`."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from scanproof.cli.common import (
    ExpectedOption,
    Format,
    FormatOption,
    StoreOption,
    load_expected,
    print_rows,
    say,
    stop,
)

if TYPE_CHECKING:
    from scanproof.record import Run


class SuiteName(StrEnum):
    """The suites of numbers."""

    gpu = "gpu"
    embedded = "embedded"


def verify(
    run: Annotated[str, typer.Argument(help="A run of the local store: path, id or `latest`.")],
    strict: Annotated[bool, typer.Option("--strict", help="The session has to have been strict.")] = False,
    after: Annotated[
        str | None, typer.Option("--after", help="The session has to have begun then or later: 2026-11-27T01:17:00Z.")
    ] = None,
    suite: Annotated[
        SuiteName | None, typer.Option("--suite", help="The session has to have selected all printed numbers of it.")
    ] = None,
    history: Annotated[
        str | None, typer.Option("--history", envvar="SCANPROOF_HISTORY", help="History with the declared baseline.")
    ] = None,
    store: StoreOption = Path(".scanproof"),
    expected: ExpectedOption = None,
    style: FormatOption = Format.table,
) -> None:
    """Judge every number of a run again from its answers, in this process; exit code 1 where the run is not green.

    A session's exit code can be changed by whatever its process loads.  This command loads no test and no plugin: it
    reads the run that the session wrote, and the answers beside it.
    """
    from scanproof import record
    from scanproof.history import verify as verifying

    asked = verifying.Asked(
        strict, None if after is None else verifying.read_time(after), None if suite is None else suite.value
    )
    if after is not None and asked.after is None:
        raise stop(
            "--after is a time with its offset from UTC, such as 2026-11-27T01:17:00Z or 2026-11-27T03:17:00+02:00; "
            f"{after!r} is none"
        )
    loaded = load_expected(expected)
    try:
        path = record.find_run(store / "runs", run)
        judged = record.read_run(path)
    except record.RecordError as error:
        raise stop(str(error)) from None
    objections = verifying.SecondJudge(judged, path, loaded, history).list_objections(asked)
    if run == "latest":
        objections += list_rivals(judged, path, asked.after)
    print_objections(judged, objections, style)
    if objections:
        raise typer.Exit(1)


def list_rivals(run: Run, path: Path, after: datetime | None) -> list[str]:
    """Why `latest` may not be the run that is meant."""
    from scanproof import record
    from scanproof.history.verify import list_others

    others = [] if after is None else list_others(path.parents[1], run, after)
    several = [f"{', '.join(others)} began then or later as well: name the run that is meant by its id"]
    return [*record.passed_over(path), *(several if others else [])]


def print_objections(run: Run, objections: list[str], style: Format) -> None:
    """Print what was found: in sentences for people, as rows for programs."""
    if style is not Format.table:
        print_rows([{"run": run.id, "objection": line} for line in objections], ("run", "objection"), style)
        return
    for line in objections:
        say(f"not green: {line}")
    numbers = sum(kept.verdict is not None for kept in run.records)
    end = "judged again: the run is not green" if objections else "judged again and as the run says"
    say(f"run {run.id}: {numbers} numbers {end}")
