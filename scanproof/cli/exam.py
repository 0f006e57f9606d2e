"""`scanproof exam`."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from scanproof.cli.common import Format, load_expected, print_rows, stop

if TYPE_CHECKING:
    from scanproof.faults.exam import CheckResult, ExamAnswer, Implementations
    from scanproof.faults.fault import Fault
    from scanproof.faults.gates.clean_settings import CleanAnswer
    from scanproof.faults.gates.gate_exam import GateAnswer

T = TypeVar("T")
FIRST_SEED = 1000
"""Clean runs take this seed and those after it: none that a case of the suite has."""


class PlaceName(StrEnum):
    """Where the operations come from."""

    reference = "reference"
    interpreter = "interpreter"
    gpu = "gpu"


class ExamFormat(StrEnum):
    """How the answers are printed."""

    table = "table"
    json = "json"
    csv = "csv"
    markdown = "markdown"


def exam(
    faults: Annotated[
        list[str] | None,
        typer.Option(
            "--faults", help="Only faults whose id, operation or (with --gates) area holds this text. Can be repeated."
        ),
    ] = None,
    clean: Annotated[
        int | None, typer.Option("--clean", min=1, help="Plant nothing: so many runs with fresh seeds, no alarm.")
    ] = None,
    evaluation: Annotated[
        bool, typer.Option("--evaluation", help="Evaluate the embedded stand-ins with each fault as well.")
    ] = False,
    place: Annotated[
        PlaceName, typer.Option("--place", help="Plant into a PyTorch form, or into installed kernels.")
    ] = PlaceName.reference,
    gates: Annotated[
        bool, typer.Option("--gates", help="Plant faults of the harness, the data and the session, not of kernels.")
    ] = False,
    jobs: Annotated[
        int | None, typer.Option("--jobs", min=1, help="With --gates: sessions at a time (default: one per core).")
    ] = None,
    style: Annotated[ExamFormat, typer.Option("--format", help="How to print.")] = ExamFormat.table,
) -> None:
    """Plant known faults, one at a time, and see which check finds them; exit code 1 if one goes unseen or unjudged."""
    if gates:
        if evaluation or place is not PlaceName.reference:
            raise stop("--gates plants no fault into an operation: leave --evaluation and --place out")
        _examine_gates(faults or [], clean, jobs or os.cpu_count() or 1, style)
        return
    if jobs is not None:
        raise stop("--jobs is for --gates: kernel checks run one after the other")
    from scanproof.faults import catalogue, implementations

    chosen = catalogue.select_faults(faults or [])
    if not chosen:
        asked = " or ".join(faults or [])
        raise stop(f"--faults: no fault holds {asked!r} in its id or operation; docs/planted-faults.md lists them")
    try:
        where = implementations.prepare_implementations(place.value)
    except implementations.ImplementationError as error:
        raise stop(f"--place {place.value}: {error}") from None
    for name, reason in where.missing.items():
        typer.echo(f"{name} is left out, it cannot be imported: {reason}", err=True)
    if clean is None:
        _run_exam(chosen, where, evaluation, style)
    elif faults:
        raise stop("--clean plants nothing: leave --faults out")
    else:
        _run_clean(clean, where, style)


def _run_clean(count: int, place: Implementations, style: ExamFormat) -> None:
    from scanproof.faults import table
    from scanproof.faults.exam import build_suite, run_clean

    seeds = range(FIRST_SEED, FIRST_SEED + count)
    runs = list(_show_progress(run_clean(seeds, build_suite(place)), count, "clean run"))
    data = style in (ExamFormat.json, ExamFormat.csv)
    if data:
        rows = [
            {
                "seed": run.seed,
                "checks": run.checks,
                "results": run.results,
                "alarms": [describe_alarm(alarm) for alarm in run.alarms],
            }
            for run in runs
        ]
        print_rows(rows, (), Format(style.value))
    else:
        for run in runs:
            for alarm in run.alarms:
                typer.echo(f"seed {run.seed}: {describe_alarm(alarm)}")
    typer.echo(table.summarize_clean(runs), err=data)
    if any(run.alarms for run in runs):
        raise typer.Exit(1)


def describe_alarm(alarm: CheckResult) -> str:
    """The message of a check that should have found nothing."""
    return f"{alarm.kind}: {alarm.message or alarm.id}"


def _run_exam(faults: Sequence[Fault], place: Implementations, evaluation: bool, style: ExamFormat) -> None:
    from scanproof.faults import catalogue, table
    from scanproof.faults.exam import build_suite, examine

    checks = build_suite(place)
    here = [fault for fault in faults if fault.op in checks.operations]
    if len(here) < len(faults):
        typer.echo(f"{len(faults) - len(here)} faults are of operations that do not run at {place.name}", err=True)
    answers = list(_show_progress((examine(fault, checks) for fault in here), len(here), "fault"))
    if evaluation:
        answers = _add_evaluations(answers)
    rows = [table.make_row(answer) for answer in answers]
    if style is ExamFormat.markdown:
        typer.echo(table.to_markdown(rows, catalogue.NOT_PLANTED))
    else:
        print_rows(rows, table.COLUMNS, Format(style.value))
    typer.echo(table.summarize(answers), err=True)
    if not answers or not all(answer.caught and not answer.not_judged for answer in answers):
        raise typer.Exit(1)


def _add_evaluations(answers: Sequence[ExamAnswer]) -> list[ExamAnswer]:
    """The answers with what the embedded evaluation says of each fault."""
    from scanproof.faults.evaluation import StandInError, evaluate_faults

    typer.echo("evaluating the stand-ins with each fault in them", err=True)
    try:
        evaluations = evaluate_faults([answer.fault for answer in answers], load_expected(None))
    except StandInError as error:
        raise stop(f"--evaluation: {error}") from None
    return [replace(answer, evaluation=evaluations.get(answer.fault.id)) for answer in answers]


def _examine_gates(texts: Sequence[str], clean: int | None, jobs: int, style: ExamFormat) -> None:
    """The exam of the gates: a session per fault, or `clean` sessions without one."""
    from scanproof.faults.gates import gate_catalogue, gate_exam, gate_session, warm_workers

    faults = gate_catalogue.select_gate_faults(texts)
    if not faults:
        asked = " or ".join(texts)
        raise stop(f"--faults: no fault of the gates holds {asked!r} in its id or area; docs/gate-faults.md lists them")
    if clean is not None and texts:
        raise stop("--clean plants nothing: leave --faults out")
    expected = load_expected(None).folder
    with tempfile.TemporaryDirectory(prefix="scanproof-exam-") as name:
        folder = Path(name)
        try:
            with warm_workers.serve_workers(folder, gate_session.make_environment(folder, {})) as server:
                held = gate_exam.GateExam(folder, expected, server)
                if clean is not None:
                    sessions = gate_exam.run_clean(held, range(FIRST_SEED, FIRST_SEED + clean), jobs)
                    _report_clean_sessions(list(_show_progress(sessions, clean, "clean session")), style)
                else:
                    answers = _show_progress(gate_exam.examine_all(held, faults, jobs), len(faults), "fault")
                    _report_gates(list(_say_what_was_missed(answers)), style)
        except (gate_exam.GateExamError, OSError) as error:
            raise stop(f"--gates: {error}") from None


def _say_what_was_missed(answers: Iterable[GateAnswer]) -> Iterator[GateAnswer]:
    """Pass the answers on, and say at once which fault was not caught: the exam takes minutes."""
    for answer in answers:
        if not answer.caught:
            said = f"NOT CAUGHT: {answer.fault.id}: {answer.missed_because}: {answer.result}: {answer.result.reason}"
            typer.echo(said, err=True)
        yield answer


def _report_gates(answers: Sequence[GateAnswer], style: ExamFormat) -> None:
    from scanproof.faults.gates import gate_table

    rows = [gate_table.make_row(answer) for answer in answers]
    if style is ExamFormat.markdown:
        typer.echo(gate_table.to_markdown(rows))
    else:
        print_rows(rows, gate_table.COLUMNS, Format(style.value))
    typer.echo(gate_table.summarize(answers), err=True)
    if not all(answer.caught for answer in answers):
        raise typer.Exit(1)


def _report_clean_sessions(answers: Sequence[CleanAnswer], style: ExamFormat) -> None:
    from scanproof.faults.gates import gate_table

    data = style in (ExamFormat.json, ExamFormat.csv)
    if data:
        print_rows([gate_table.make_clean_row(answer) for answer in answers], (), Format(style.value))
    else:
        for answer in answers:
            if answer.alarm:
                typer.echo(f"{answer.setting}: {answer.result}\n{answer.result.output[-2000:]}")
    typer.echo(gate_table.summarize_clean(answers), err=data)
    if any(answer.alarm for answer in answers):
        raise typer.Exit(1)


def _show_progress(items: Iterable[T], count: int, name: str) -> Iterator[T]:
    """Pass the items on and show how many there were: one rewritten line on a terminal, else a line per ten."""
    rewrites = sys.stderr.isatty()
    for number, item in enumerate(items, start=1):
        if rewrites:
            typer.echo(f"\r{name} {number} of {count}", nl=number == count, err=True)
        elif number % 10 == 0 or number == count:
            typer.echo(f"{name} {number} of {count}", err=True)
        yield item
