"""`scanproof plan`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from scanproof.cli.common import (
    DocumentOption,
    ExpectedOption,
    Format,
    FormatOption,
    ModelOption,
    StoreOption,
    load_expected,
    print_rows,
    say,
    stop,
)

if TYPE_CHECKING:
    from scanproof.evaluation.planning.plan import Gpu, PastEvaluation

COLUMNS = ("job", "model_class", "values", "documents", "requests", "tokens", "memory_gb", "time", "status")


def plan(
    gpu: Annotated[
        str | None, typer.Option("--gpu", help="GPU by name, as `H100 80GB` (default: the one here, else H100 80GB).")
    ] = None,
    document: DocumentOption = None,
    model: ModelOption = None,
    style: FormatOption = Format.table,
    expected: ExpectedOption = None,
    store: StoreOption = Path(".scanproof"),
) -> None:
    """Print the GPU jobs with requests, tokens, memory and time, in the order to run them; no model is loaded."""
    from scanproof import models
    from scanproof.cli import listing
    from scanproof.evaluation.planning import plan as planning

    loaded = load_expected(expected)
    table = planning.read_gpus()
    chosen = _choose_gpu(gpu, table)
    values = [
        value
        for value in loaded.values
        if value.job.suite == "gpu" and listing.matches(value, document or [], model or [])
    ]
    if not values:
        raise stop("no number was chosen: see `scanproof list` for documents and models")
    supported = {name for name, _ in models.CLASSES} | set(planning.SUPPORTED_ELSEWHERE)
    planned = planning.plan_jobs(values, loaded.tasks, chosen, table, supported, _read_past_evaluations(store))
    rows = [planning.plan_row(row) for row in planned]
    if style is not Format.table:
        print_rows(rows, tuple(rows[0]), style)
        return
    print_rows([{**row, "time": format_duration(row["seconds"])} for row in rows], COLUMNS, style)
    running = [row for row in planned if row.status == "runs"]
    total = format_duration(sum(row.seconds or 0 for row in running))
    measured = sum(row.because == "measured" for row in running)
    for line in (
        f"{len(planned)} jobs measure {len(values)} numbers; {len(running)} run on one {chosen.name}, in about {total}",
        f"times: {measured} measured, {len(running) - measured} estimated ({planning.explain_estimates(planned)})",
    ):
        say(line)
    for row in planned:
        if row.peak is not None and row.need is not None and row.peak > row.need.total:
            say(f"{row.job.name}: took {row.peak / 1e9:.3g} GB, more than the computed {row.need.because}")
        if row.status != "runs":
            say(f"{row.job.name}: {row.status}: {row.reason}")
    for line in listing.describe_together(values, loaded.constants):
        say(line)


def _choose_gpu(name: str | None, table: tuple[Gpu, ...]) -> Gpu:
    from scanproof import environment
    from scanproof.evaluation.planning.plan import find_gpu

    here = [gpu["name"] for gpu in environment.gpus()] if name is None else []
    asked = name or next(iter(here), "H100 80GB")
    chosen = find_gpu(asked, table)
    if chosen is None:
        known = ", ".join(gpu.name for gpu in table)
        raise stop(
            f"--gpu: nothing is known of {asked!r}; known are {known}; "
            "others go into scanproof/evaluation/planning/gpus.yaml"
        )
    return chosen


def _read_past_evaluations(store: Path) -> list[PastEvaluation]:
    """Evaluations of earlier sessions on a GPU, the newest last; runs that cannot be read are left out, and named."""
    from scanproof.evaluation.planning.plan import PastEvaluation
    from scanproof.record import RUN_FILE, RecordError, read_run

    evaluations: dict[str, PastEvaluation] = {}
    for path in sorted((store / "runs").glob(f"*/{RUN_FILE}")):
        try:
            run = read_run(path)
        except RecordError as error:
            say(f"scanproof: not used for the estimates: {error}", err=True)
            continue
        for entry in run.evaluations:
            name, peak = entry.environment.get("device_name"), entry.environment.get("peak_device_memory_bytes")
            if name and entry.seconds > 0:
                evaluations[entry.key] = PastEvaluation(job=entry.job, gpu=name, seconds=entry.seconds, peak=peak)
    return list(evaluations.values())


def format_duration(seconds: float | None) -> str:
    """Hours and minutes for people; a question mark for what is not known."""
    if seconds is None:
        return "?"
    minutes = max(1, round(seconds / 60))
    return f"{minutes // 60} h {minutes % 60:02d} min" if minutes >= 60 else f"{minutes} min"
