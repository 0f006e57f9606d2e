"""The command line: every command is one row here and one module in `scanproof.cli`."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Annotated

import typer

from scanproof import __version__
from scanproof.cli import (
    audit,
    baseline,
    bisect,
    calibrate,
    compare,
    convert,
    doctor,
    exam,
    history,
    import_pubmedqa,
    lm_eval,
    plan,
    prefetch,
    prune_plan,
    record,
    report,
    schema,
    triage,
    values,
    verify,
)
from scanproof.cli.common import stop
from scanproof.history.errors import HistoryError
from scanproof.printable import leads_astray, make_printable
from scanproof.record import RecordError

LONGEST_ARGUMENT = 4096
"""Characters; Linux allows no longer paths."""


@dataclass(frozen=True)
class Command:
    """One command of its own; those of `history` and `baseline` are in their modules."""

    name: str
    call: Callable[..., None]
    example: str
    """Its arguments in the example that `--help` ends with."""
    passes_on: str | None = None
    """Why every argument, `--help` and `--format` too, is somebody else's; None for a command of ours."""


COMMANDS = (
    Command("list", values.list_values, "--document 001 --model mamba-130m --format json"),
    Command("audit", audit.audit, "--format json"),
    Command("calibrate", calibrate.calibrate, "--check"),
    Command("doctor", doctor.doctor, "--format json"),
    Command("exam", exam.exam, "--faults selective_scan --format json"),
    Command("plan", plan.plan, '--gpu "H100 80GB" --document 001 --format json'),
    Command("convert", convert.convert, "mirror/nvidia/mamba2-hybrid-8b-3t-4k hybrid-8b"),
    Command("prefetch", prefetch.prefetch, "--model mamba-130m --mirror /srv/mirror"),
    Command("import-pubmedqa", import_pubmedqa.import_pubmedqa, "pubmedqa/data --mirror /srv/mirror --format json"),
    Command(
        "lm-eval",
        lm_eval.lm_eval,
        "run --model mamba_ssm --model_args pretrained=DIR --tasks piqa --device cpu",
        passes_on="it is lm-eval's own command line, which writes JSON with --output_path",
    ),
    Command("compare", compare.compare, "20261120T175933Z-1b9c04d2 latest --format json"),
    Command("triage", triage.triage, "latest mamba-130m-piqa-acc-paper --format json"),
    Command("bisect", bisect.bisect, "--good venv-old --bad venv-new --number mamba-130m-piqa-acc-paper"),
    Command("prune-plan", prune_plan.prune_plan, "--zigzag llama2_7b_pile_knn_5_dim_4.csv.gz --layers 32"),
    Command("record", record.record, "latest --model llama-2-7b"),
    Command("report", report.report, "latest --since 30 --out page.html"),
    Command("schema", schema.schema, "expected/schema"),
    Command("verify", verify.verify, "latest --strict --after 2026-11-27T01:17:00Z"),
)

app = typer.Typer(
    no_args_is_help=True,
    invoke_without_command=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
PASS_ALL_ON = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}

for row in COMMANDS:
    settings = PASS_ALL_ON if row.passes_on else None
    app.command(row.name, context_settings=settings, epilog=f"Example: scanproof {row.name} {row.example}")(row.call)
app.add_typer(
    history.app, name="history", epilog="Example: scanproof history --history s3://bucket/scanproof --gpu H200"
)
app.add_typer(baseline.app, name="baseline", epilog="Example: scanproof baseline --format json")


@app.callback()
def version(
    show: Annotated[bool, typer.Option("--version", help="Show the version and stop.", is_eager=True)] = False,
) -> None:
    """Do Mamba's published numbers still come out, and are its scan kernels still right?"""
    if show:
        typer.echo(f"scanproof {__version__}")
        raise typer.Exit()


def main() -> None:
    """Entry point of the `scanproof` command."""
    raise SystemExit(run(sys.argv[1:]))


@cache
def _command() -> Callable[..., object]:
    return typer.main.get_command(app)


def run(arguments: Sequence[str]) -> int:
    """Run a command; returns its exit code.  Whatever a user can mend is said in a line of its own."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A name that is no text in the terminal's encoding is printed, not a reason to break off.
            stream.reconfigure(errors="backslashreplace")
    try:
        if (problem := find_odd_argument(arguments)) is not None:
            raise stop(problem)
        _command()(list(arguments), prog_name="scanproof")
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except typer.Exit as ended:
        return ended.exit_code
    except (HistoryError, RecordError) as error:
        # Any question to a history or to a store may meet a file that cannot be read.
        return stop(str(error)).exit_code
    except OSError as error:
        named = f"{error.filename}: " if error.filename else ""
        return stop(f"{named}{error.strerror or error}").exit_code
    return 0


def find_odd_argument(arguments: Sequence[str]) -> str | None:
    """What is wrong with an argument that is too long for any name, or would move the terminal's cursor."""
    if arguments[:1] == ["lm-eval"]:
        return None
    for position, argument in enumerate(arguments, 1):
        if len(argument) > LONGEST_ARGUMENT:
            return f"argument {position} has {len(argument)} characters; no name has more than {LONGEST_ARGUMENT}"
        if leads_astray(argument):
            return f"argument {position} has a character that moves the text around it: {make_printable(argument)}"
    return None


if __name__ == "__main__":
    main()
