"""Wall time and peak memory of scanproof against lm-eval's command line: `python benchmarks/overhead.py`.

The same embedded jobs, alternating: one call of lm-eval per job (same batch size, samples logged as scanproof does),
and one pytest session of scanproof over the same numbers, nothing reused.
"""

from __future__ import annotations

import os
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from scanproof.evaluation.command_line import model_args
from scanproof.evaluation.planning import job_rows
from scanproof.numbers.expected import reader
from scanproof.numbers.values import EvalJob
from scanproof.plugin import options

ROOT = Path(__file__).parents[1]
Cost = tuple[float, int]
"""Seconds, peak resident bytes of the largest process."""


def measure(command: Sequence[str], cwd: Path, environment: dict[str, str]) -> Cost:
    """Run a command to its end; raises CalledProcessError when it fails."""
    began = time.perf_counter()
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(command, cwd=cwd, env=environment, stdout=log, stderr=subprocess.STDOUT)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode != 0:
            log.seek(0)
            sys.stderr.write(log.read().decode(errors="replace")[-3000:])
            raise subprocess.CalledProcessError(process.returncode, command)
    return time.perf_counter() - began, usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def lm_eval_command(job: EvalJob, folder: Path) -> list[str]:
    """lm-eval's command line for a job; scanproof's classes are registered, the rest is lm-eval's."""
    named = {"pretrained": job.pretrained} | model_args(job)
    arguments = ",".join(f"{name}={value}" for name, value in named.items())
    return [
        sys.executable, "-m", "scanproof.evaluation.worker.lm_eval_command", "run",
        "--model", job.model, "--model_args", arguments,
        "--tasks", ",".join(job.tasks), "--num_fewshot", str(job.num_fewshot), "--batch_size", str(job.batch_size),
        "--device", job.device, "--log_samples", "--output_path", str(folder / "out"),
    ]  # fmt: skip


def lm_eval_cost(jobs: Sequence[EvalJob], folder: Path) -> Cost:
    """One call per job: the sum of the times, the largest of the memories."""
    offline = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(folder / "hf"), "TOKENIZERS_PARALLELISM": "false"}
    environment = {**os.environ, **offline}
    costs = [measure(lm_eval_command(job, folder), options.EMBEDDED_MIRROR, environment) for job in jobs]
    return sum(cost[0] for cost in costs), max(cost[1] for cost in costs)


def scanproof_cost(jobs: Sequence[EvalJob], folder: Path) -> Cost:
    """One session over all numbers of these jobs, with an empty store."""
    models = sorted({job.pretrained.rsplit("/", 1)[-1] for job in jobs})
    command = [
        sys.executable, "-m", "pytest", "-q", "-m", "embedded", "-k", " or ".join(models), "tests/published",
        "--scanproof-store", str(folder / "store"), "-p", "no:cacheprovider",
    ]  # fmt: skip
    return measure(command, ROOT, dict(os.environ))


def main(
    repeats: Annotated[int, typer.Option(help="Pairs of runs; medians are shown.")] = 3,
    model: Annotated[str, typer.Option(help="Only stand-ins whose name holds this.")] = "",
) -> None:
    """Print a row per stand-in and the total: seconds and peak memory of both, and their ratios."""
    loaded = reader.load(ROOT / "expected")
    jobs = [job for job, _ in job_rows.jobs(loaded.values) if job.suite == "embedded" and model in job.pretrained]
    names = sorted({job.pretrained for job in jobs})
    typer.echo("$ " + shlex.join(["python", *sys.argv]))
    typer.echo(
        f"{'stand-in':<26} {'lm_eval s':>10} {'scanproof s':>12} {'ratio':>6} {'MiB':>6} {'MiB':>6} {'ratio':>6}"
    )
    totals = [0.0, 0.0]
    for name in names:
        theirs: list[Cost] = []
        ours: list[Cost] = []
        for _ in range(repeats):
            of_model = [job for job in jobs if job.pretrained == name]
            for costs, cost in ((theirs, lm_eval_cost), (ours, scanproof_cost)):
                with tempfile.TemporaryDirectory() as folder:
                    costs.append(cost(of_model, Path(folder)))
        seconds = [statistics.median(cost[0] for cost in costs) for costs in (theirs, ours)]
        memory = [statistics.median(cost[1] for cost in costs) / 2**20 for costs in (theirs, ours)]
        totals = [total + each for total, each in zip(totals, seconds, strict=True)]
        typer.echo(row(name, seconds, memory))
    typer.echo(row("all", totals, []))


def row(name: str, seconds: Sequence[float], memory: Sequence[float]) -> str:
    """One line of the table."""
    text = f"{name:<26} {seconds[0]:>10.1f} {seconds[1]:>12.1f} {seconds[1] / seconds[0]:>6.2f}"
    return f"{text} {memory[0]:>6.0f} {memory[1]:>6.0f} {memory[1] / memory[0]:>6.2f}" if memory else text


if __name__ == "__main__":
    typer.run(main)
