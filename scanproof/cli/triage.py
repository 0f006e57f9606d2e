"""`scanproof triage`."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from scanproof.cli.common import (
    ExpectedOption,
    Format,
    FormatOption,
    StoreOption,
    find_run,
    load_expected,
    print_rows,
    say,
    stop,
)

if TYPE_CHECKING:
    from scanproof.numbers.expected.reader import Expected
    from scanproof.record import Record, Run
    from scanproof.triage.evidence import Evidence

COLUMNS = ("number", "place", "kind", "state", "title")


def triage(
    run: Annotated[str, typer.Argument(help="A run of the local store: path, id or `latest`.")],
    number: Annotated[
        str | None, typer.Argument(help="Id of a number; without it every number that failed, in short.")
    ] = None,
    substitute: Annotated[
        bool,
        typer.Option("--substitute", help="Score the flipped documents again, one operation at a time replaced."),
    ] = False,
    history: Annotated[
        str | None, typer.Option("--history", envvar="SCANPROOF_HISTORY", help="History with the declared baseline.")
    ] = None,
    mirror: Annotated[
        Path | None, typer.Option("--mirror", envvar="SCANPROOF_MIRROR", help="Folder with checkpoints, by hub name.")
    ] = None,
    store: StoreOption = Path(".scanproof"),
    expected: ExpectedOption = None,
    style: FormatOption = Format.table,
) -> None:
    """Print why numbers failed: findings in order, each with its evidence and the next command.

    What is shown by measurements comes first, then what is suspected; `unexplained` is an answer.  Of a run in which
    kernel tests failed, they are named.
    """
    from scanproof.record import RecordError, read_run

    try:
        path = find_run(store, run)
        loaded_run = read_run(path)
    except RecordError as error:
        raise stop(f"{error}; triage reads the store of the machine that ran it, see --store") from None
    loaded = load_expected(expected)
    chosen = choose_records(loaded_run, number)
    if substitute:
        if number is None:
            raise stop("--substitute scores documents again and takes a while: name one number")
        replace_operations(loaded_run, path.parent, store, chosen[0], loaded, history, mirror)
    print_findings(loaded_run, path.parent, store, chosen, loaded, history, style, whole=number is not None)


def choose_records(run: Run, number: str | None) -> list[Record]:
    """The records of the numbers asked for; stops where the run does not hold one."""
    from scanproof.triage.gather import list_failed

    if number is None:
        return list_failed(run)
    chosen = [record for record in run.records if record.id == number]
    if not chosen:
        some = ", ".join(record.id for record in list_failed(run)[:3])
        raise stop(f"{number}: the run {run.id} has no such number{f' (failed: {some}, ...)' if some else ''}")
    return chosen


def print_findings(
    run: Run, folder: Path, store: Path, chosen: list[Record], expected: Expected, history: str | None,
    style: Format, *, whole: bool,
) -> None:  # fmt: skip
    """Print the findings: one number in full, several by their first finding, all of them for programs."""
    from scanproof.triage import text
    from scanproof.triage.diagnose import diagnose
    from scanproof.triage.gather import gather_from_run
    from scanproof.triage.read_answers import Runs

    runs = Runs(store)
    rows: list[dict[str, Any]] = []
    for record in chosen:
        evidence = gather_from_run(run, folder, runs, record, expected, history)
        findings = diagnose(evidence)
        if whole and style is Format.table:
            say(text.report(evidence, findings))
        finding_rows = text.rows(evidence, findings)
        rows += finding_rows if style is not Format.table else finding_rows[:1]
    if style is not Format.table or (rows and not whole):
        print_rows(rows, COLUMNS, style)
    if style is Format.table and not whole:
        say(f"{len(chosen)} {'number' if len(chosen) == 1 else 'numbers'} failed in {run.id}")
        if chosen:
            say(f"everything of one: scanproof triage {run.id} {chosen[0].id} --store {store}")
        say_other_failures(run)


def say_other_failures(run: Run) -> None:
    """Say what speaks against the run beside its numbers, and which tests to run again."""
    from scanproof.history import run_failures
    from scanproof.history.run_failures import SHOWN

    told = set(run_failures.bad_numbers(run))
    for line in run_failures.list_failures(run):
        if line not in told:
            say(f"not green: {line}")
    tests = run_failures.tests_without_number(run)
    if tests:
        more = f" (and {len(tests) - SHOWN} more)" if len(tests) > SHOWN else ""
        say(f"again, for what they say: pytest {shlex.join(tests[:SHOWN])}{more}")


def replace_operations(
    run: Run, folder: Path, store: Path, record: Record, expected: Expected, history: str | None,
    mirror: Path | None,
) -> None:  # fmt: skip
    """Score again with replaced operations and keep the result beside the run; stops with the reason if it cannot."""
    from scanproof.plugin.options import EMBEDDED_MIRROR
    from scanproof.triage.gather import gather_from_run
    from scanproof.triage.read_answers import Runs
    from scanproof.triage.substitute import CannotSubstitute, substitute

    evidence: Evidence = gather_from_run(run, folder, Runs(store), record, expected, history)
    value = next((value for value in expected.numbers if value.id == record.id), None)
    embedded = value is not None and value.job.suite == "embedded"
    try:
        substitute(evidence, folder, store, EMBEDDED_MIRROR if embedded else mirror)
    except CannotSubstitute as error:
        raise stop(f"--substitute: {error}") from None
