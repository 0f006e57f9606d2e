"""The command line: every command is one row here and one module in `scanproof.commands`."""

from __future__ import annotations

from typing import Annotated

import typer

from scanproof import __version__
from scanproof.commands import (
    audit,
    baseline,
    bisect,
    calibrate,
    compare,
    convert,
    doctor,
    exam,
    history,
    lm_eval,
    plan,
    prefetch,
    prune_plan,
    record,
    report,
    schema,
    triage,
    values,
)

app = typer.Typer(
    no_args_is_help=True,
    invoke_without_command=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
PASS_ALL_ON = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}

app.command("list", epilog="Example: scanproof list --document 001 --model mamba-130m --format json")(
    values.list_values
)
app.command("audit", epilog="Example: scanproof audit --format json")(audit.audit)
app.command("calibrate", epilog="Example: scanproof calibrate --check")(calibrate.calibrate)
app.command("doctor", epilog="Example: scanproof doctor --format json")(doctor.doctor)
app.command("exam", epilog="Example: scanproof exam --faults selective_scan --format json")(exam.exam)
app.command("plan", epilog='Example: scanproof plan --gpu "H100 80GB" --document 001 --format json')(plan.plan)
app.command("convert", epilog="Example: scanproof convert mirror/nvidia/mamba2-hybrid-8b-3t-4k hybrid-8b")(
    convert.convert
)
app.command("prefetch", epilog="Example: scanproof prefetch --model mamba-130m --mirror /srv/mirror")(prefetch.prefetch)
app.command(
    "lm-eval",
    context_settings=PASS_ALL_ON,
    epilog="Example: scanproof lm-eval run --model mamba_ssm --model_args pretrained=DIR --tasks piqa --device cpu",
)(lm_eval.lm_eval)
app.add_typer(
    history.app, name="history", epilog="Example: scanproof history --history s3://bucket/scanproof --gpu H200"
)
app.command("compare", epilog="Example: scanproof compare 20261120T175933Z-1b9c04d2 latest --format json")(
    compare.compare
)
app.command("triage", epilog="Example: scanproof triage latest mamba-130m-piqa-acc-paper --format json")(triage.triage)
app.command(
    "bisect", epilog="Example: scanproof bisect --good venv-old --bad venv-new --number mamba-130m-piqa-acc-paper"
)(bisect.bisect)
app.add_typer(baseline.app, name="baseline", epilog="Example: scanproof baseline --format json")
app.command(
    "prune-plan", epilog="Example: scanproof prune-plan --zigzag llama2_7b_pile_knn_5_dim_4.csv.gz --layers 32"
)(prune_plan.prune_plan)
app.command("record", epilog="Example: scanproof record latest --model llama-2-7b")(record.record)
app.command("report", epilog="Example: scanproof report latest --since 30 --out page.html")(report.report)
app.command("schema", epilog="Example: scanproof schema expected/schema")(schema.schema)


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
    app()


if __name__ == "__main__":
    main()
