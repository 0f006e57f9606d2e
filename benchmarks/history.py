"""Seconds and peak memory of the questions that are asked of a history: `python benchmarks/history.py`.

Writes nights of all published numbers with the samples of all their documents, then asks each question in a process
of its own, on two cores: from the start of Python to the answer, files in the page cache, nothing else cached.
"""

from __future__ import annotations

import json
import os
import random
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated

import typer

from scanproof import files
from scanproof.evaluation.planning import job_rows
from scanproof.history import publish, samples
from scanproof.history.storage import open_place
from scanproof.numbers.expected import reader
from scanproof.numbers.values import EvalJob, PublishedValue
from scanproof.numbers.verdict import answers, tolerance
from scanproof.numbers.verdict.measurement import Measurement
from scanproof.plugin import run_recorder
from scanproof.record import Evaluation, Run

ROOT = Path(__file__).parents[1]
QUESTIONS = Path(__file__).with_name("history_questions.py")
CASES = 60
"""Timed kernel cases per night."""
DISTINCT = 4
"""Different files of samples; further nights link to them, because no question reads those of more than two."""


def published() -> reader.Expected:
    return reader.load(ROOT / "expected")


def task_samples(job: str, task: str, documents: int, draw: random.Random) -> answers.TaskSamples:
    """Four answers per document, log-likelihoods as float32 has them."""
    import numpy as np

    values = np.random.default_rng(draw.getrandbits(32)).normal(-30, 12, (documents, 4)).astype(np.float32)
    right = (values[:, 0] >= values[:, 1]).astype(float).tolist()
    return answers.TaskSamples(
        job=job, task=task, doc_ids=tuple(range(documents)), documents_hash=task, prompts_hash=task,
        targets=(0,) * documents, loglikelihoods=tuple(map(tuple, values.astype(float).tolist())),
        metrics={"acc": tuple(right), "acc_norm": tuple(right)},
    )  # fmt: skip


def leaves(values: list[PublishedValue]) -> dict[tuple[str, str], int]:
    """Documents of every single task of every job."""
    found: dict[tuple[str, str], int] = {}
    for value in values:
        parts = [(part.task, part.documents) for part in value.parts] or [(value.task, value.documents)]
        found.update({(value.job.name, task): documents or 0 for task, documents in parts})
    return found


def night(index: int, values: list[PublishedValue], jobs: list[EvalJob], constants: tolerance.Constants) -> Run:
    """A run of all numbers, each within what flips explain."""
    draw = random.Random(index)
    started = datetime(2024, 1, 1, 1, tzinfo=UTC) + timedelta(days=index)
    packages = {"torch": f"2.{10 + index // 250}.0", "mamba-ssm": f"2.2.{index // 120}", "lm-eval": "0.4.13"}
    environment = {"python": "3.11.7", "packages": packages, "gpus": [{"name": "NVIDIA H200"}],
                   "source": {"branch": "main", "commit": f"{draw.getrandbits(160):040x}"}}  # fmt: skip
    evaluations, records = [], []
    for job in jobs:
        mine = [value for value in values if value.job.name == job.name]
        found = tuple(
            Measurement(task=value.task, metric=value.metric, value=measured(value, draw), stderr=None,
                        n_samples=value.documents or 1000)
            for value in mine
        )  # fmt: skip
        evaluation = Evaluation(
            job=job, key=f"{draw.getrandbits(256):064x}", measurements=found, samples="samples",
            command="scanproof lm-eval run --model mamba_ssm", environment=environment,
        )  # fmt: skip
        evaluations.append(evaluation)
        for value, each in zip(mine, found, strict=True):
            verdict = tolerance.compare(value, each.value, constants, documents=value.documents or 1000)
            records.append(run_recorder.judged_record(value, f"test_published[{value.id}]", evaluation, verdict))
    stamp = started.isoformat()
    return Run(
        id=run_recorder.new_run_id(started), started=stamp, finished=stamp, strict=True, limit=None,
        environment=environment, records=tuple(records), selected=len(records), evaluations=tuple(evaluations),
    )  # fmt: skip


def measured(value: PublishedValue, draw: random.Random) -> float:
    """A correct night's measurement, roughly."""
    if value.metric == "perplexity":
        return value.expected * (1 + draw.gauss(0, 0.0005))
    return min(1.0, max(0.0, value.expected + draw.gauss(0, 0.1 / (value.documents or 1000) ** 0.5)))


def with_latencies(content: bytes, index: int) -> bytes:
    """The run with timed kernel cases."""
    draw = random.Random(-index)
    rows = [{"case": f"case-{number}", "gpu": "NVIDIA H200", "median_seconds": 1e-4 * (number + draw.random())}
            for number in range(CASES)]  # fmt: skip
    return json.dumps({**json.loads(content), "latencies": rows}).encode()


def fill(folder: Path, count: int) -> int:
    """Write the nights; returns the documents of one."""
    loaded = published()
    values = [value for value in loaded.values if value.job.suite == "gpu"]
    jobs = [job for job, _ in job_rows.jobs(values)]
    place = open_place(str(folder))
    documents = leaves(values)
    made = [made_samples(documents, random.Random(number)) for number in range(min(DISTINCT, count))]
    for index in range(count):
        run = night(index, values, jobs, loaded.constants)
        kept = folder / "runs" / run.id
        kept.mkdir(parents=True)
        if index >= len(made):
            earlier = next((folder / "kept").glob(f"{index % len(made)}-*"))
            os.link(earlier, kept / earlier.name.partition("-")[2])
        content = with_latencies(files.to_json(run), index)
        publish.put(place, run, content, made[index % len(made)])
        if index < len(made):
            (folder / "kept").mkdir(exist_ok=True)
            name = next(kept.glob("samples-*"))
            os.link(name, folder / "kept" / f"{index}-{name.name}")
    return sum(documents.values())


def made_samples(documents: dict[tuple[str, str], int], draw: random.Random) -> bytes:
    """A night's samples as Parquet."""
    return samples.to_parquet(task_samples(job, task, count, draw) for (job, task), count in documents.items())


def measure(folder: Path, name: str) -> tuple[float, float, int, int]:
    """Seconds, seconds of computing, peak resident bytes and rows of a question in a process of its own."""
    began = time.perf_counter()
    said = subprocess.check_output([sys.executable, str(QUESTIONS), str(folder), name], text=True)
    seconds = time.perf_counter() - began
    rows, peak, computing = said.split()
    return seconds, float(computing), int(peak), int(rows)


def main(
    count: Annotated[int, typer.Option("--nights", help="Nights to write.")] = 1000,
    folder: Annotated[Path | None, typer.Option(help="A history written before, or where to write one.")] = None,
) -> None:
    """Print seconds, peak memory and rows of every question."""
    typer.echo("$ " + shlex.join(["python", *sys.argv]))
    kept = folder or Path(tempfile.mkdtemp(prefix="scanproof-history-"))
    try:
        if not (kept / "runs").is_dir():
            began = time.perf_counter()
            documents = fill(kept, count)
            size = sum(path.stat().st_size for path in kept.glob("runs/*/*")) / 1e9
            typer.echo(f"{count} nights of {documents} documents: {size:.1f} GB, "
                       f"written in {time.perf_counter() - began:.0f} s")  # fmt: skip
        typer.echo(f"{'question':42} {'seconds':>8} {'CPU s':>6} {'MiB':>6} {'rows':>7}")
        for name in subprocess.check_output([sys.executable, QUESTIONS], text=True).splitlines():
            seconds, computing, peak, rows = measure(kept, name)
            typer.echo(f"{name:42} {seconds:8.2f} {computing:6.2f} {peak / 2**20:6.0f} {rows:7}")
    finally:
        if folder is None:
            shutil.rmtree(kept)


if __name__ == "__main__":
    typer.run(main)
