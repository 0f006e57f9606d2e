"""Measure how far rounding moves the stand-ins' answers: `python -m scanproof.embedded.rounding`.

It scores every document of every stand-in in float32 in each way of `WAYS`, compares each answer with the one that
`scanproof.embedded.record` recorded in float64, and writes the largest difference of each stand-in.
"""

from __future__ import annotations

import gzip
import json
import math
import os
import platform
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import typer

from scanproof import embedded, environment
from scanproof.embedded import record
from scanproof.embedded.record import FEW_SHOT, ZERO_SHOT, StandIn
from scanproof.evaluation.evaluate_job import evaluate
from scanproof.evaluation.request import Settings
from scanproof.files import write_atomically
from scanproof.numbers.values import EvalJob
from scanproof.numbers.verdict.answers import ANSWERS
from scanproof.numbers.verdict.engines import EngineName
from scanproof.numbers.verdict.rounding import HIGHEST_CEILING, TABLE, MeasuredRounding, digest_answers

COMMAND = "python -m scanproof.embedded.rounding"


@dataclass(frozen=True)
class Way:
    """A way to compute the same answers that must not matter."""

    simd: str
    """`ATEN_CPU_CAPABILITY`, by which torch chooses its vector instructions."""
    threads: int
    batch_size: int
    engine: EngineName
    tasks: tuple[str, ...] = ()
    """Zero-shot tasks that are scored this way; empty for all tasks."""

    def __str__(self) -> str:
        threads = f"{self.threads} thread{'s' * (self.threads > 1)}"
        missing = [task for task in (*ZERO_SHOT, *FEW_SHOT) if self.tasks and task not in self.tasks]
        tasks = f"only {', '.join(self.tasks)}" if len(missing) > len(self.tasks) else f"without {', '.join(missing)}"
        return f"{self.simd}, {threads}, batches of {self.batch_size}, {self.engine}{f', {tasks}' if missing else ''}"


SHORT = tuple(task for task in ZERO_SHOT if task != "truthfulqa_mc2")
"""The zero-shot tasks without the one whose prompts take most of the time."""
WAYS = (
    Way("avx512", 1, 64, "shared"),
    Way("avx2", 1, 16, "plain", SHORT),
    Way("default", 1, 7, "shared", SHORT),
    # Where cores are busy, two threads take ten times as long: see `worker_environment`.
    Way("avx512", 2, 64, "shared", ("piqa",)),
)
"""Every SIMD path, both engines, one thread and two, small batches and large ones; not each with each."""
SIMD = ("default", "avx2", "avx512")
"""Names of vector instructions on x86, each with those before it."""
Answers = dict[tuple[str, int], list[float]]
"""Task and document -> log-likelihoods."""


def measure_way(jobs: Iterable[EvalJob], way: Way, recorded: Answers, store: Path) -> float:
    """The largest difference in nats between the answers of jobs, computed in this way, and the recorded ones.

    Raises ValueError where the documents are others, an answer is no finite number, or this machine cannot compute so.
    """
    if way.simd not in list_simd():
        raise ValueError(f"{way}: this machine's CPU has no {way.simd}; measure on one that has")
    settings = Settings(
        store=store, mirror=embedded.MIRROR, fresh=True, timeout=None, session=str(way), engine=way.engine
    )
    measured: Answers = {}
    with set_variables(ATEN_CPU_CAPABILITY=way.simd, OMP_NUM_THREADS=str(way.threads)):
        for job in jobs:
            evaluation = evaluate(replace(job, batch_size=way.batch_size), settings, progress=lambda _: None)
            if evaluation.engine != way.engine:
                raise ValueError(f"{job.name}: scored by {evaluation.engine}, not by {way.engine}")
            measured |= {(row["task"], row["doc_id"]): row["loglikelihoods"] for row in record.read_answers(evaluation)}
    if measured.keys() != recorded.keys():
        raise ValueError("the documents are other than those whose answers are recorded")
    moved = [abs(now - before) for key in recorded for now, before in zip(measured[key], recorded[key], strict=True)]
    if not all(map(math.isfinite, moved)):
        raise ValueError(f"an answer is no finite number ({way})")
    return max(moved)


def list_simd() -> tuple[str, ...]:
    """The names of `SIMD` that this machine's CPU has: torch takes what it is told, and would end with SIGILL."""
    import torch

    best = torch.backends.cpu.get_cpu_capability().lower()
    return SIMD[: SIMD.index(best) + 1] if best in SIMD else SIMD[:1]


@contextmanager
def set_variables(**values: str) -> Iterator[None]:
    """Set environment variables for a while."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def read_recorded(path: Path) -> Answers:
    """The recorded log-likelihoods of each document."""
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    # The first line is no document: it holds the tokens of the probe.
    return {(row["task"], row["doc_id"]): row["loglikelihoods"] for row in rows if row["task"]}


def measure(stand_in: StandIn, folder: Path) -> MeasuredRounding:
    """The largest difference of a stand-in over all ways; raises ValueError, see `measure_way`."""
    recorded = read_recorded(folder / f"{stand_in.name}{ANSWERS}")
    largest = 0.0
    with TemporaryDirectory() as store:
        for way in WAYS:
            moved = measure_way(list_jobs(stand_in, way), way, select_answers(recorded, way), Path(store))
            typer.echo(f"{stand_in.name}: {moved:.2e} nats ({way})")
            largest = max(largest, moved)
    measured = MeasuredRounding(
        name=stand_in.name,
        checkpoint=stand_in.hub_id,
        model=stand_in.model,
        answers=count_answers(recorded),
        largest=float(f"{largest:.3g}"),
        recorded=digest_answers(recorded),
    )
    if measured.ceiling > HIGHEST_CEILING:
        raise ValueError(f"{stand_in.name}: {largest:.2e} nats are more than rounding may move a stand-in's answer")
    return measured


def list_jobs(stand_in: StandIn, way: Way) -> list[EvalJob]:
    """The jobs of a stand-in that are scored in a way."""
    if way.tasks:
        return [record.make_job(stand_in, way.tasks, 0)]
    return [record.make_job(stand_in, ZERO_SHOT, 0), record.make_job(stand_in, FEW_SHOT, 5)]


def select_answers(recorded: Answers, way: Way) -> Answers:
    """The recorded answers to the documents that are scored in a way."""
    return {key: values for key, values in recorded.items() if not way.tasks or key[0] in way.tasks}


def count_answers(recorded: Answers) -> int:
    """Number of answers that are compared in all ways together."""
    return sum(len(values) for way in WAYS for values in select_answers(recorded, way).values())


def describe_machine() -> str:
    """What computed: the end of the table's first line."""
    return f"float32 on a CPU, {platform.machine()},"


def describe_conditions() -> list[str]:
    """With what and how this process measures, a line each: versions and ways.  They hold for every row."""
    versions = ", ".join(f"{name} {version}" for name, version in sorted(environment.versions().items()) if version)
    return [
        f"# Python {platform.python_version()}, {versions}.",
        "#",
        "# For each stand-in the largest difference, in nats, between an answer in float32 and the one recorded in",
        "# float64, and the number of answers that were compared.  Ways in which they were computed:",
        *(f"# - {way}" for way in WAYS),
    ]


def format_table(rows: list[MeasuredRounding]) -> str:
    """Text of the table, with the command and the versions that gave its numbers."""
    lines = [
        f"# Written by `{COMMAND}` on {datetime.now(UTC):%Y-%m-%d}, {describe_machine()}",
        *describe_conditions(),
        "# `recorded` stands for the float64 answers that they were compared with.",
    ]
    for row in rows:
        fields = [f"{key}: {value}" for key, value in row.to_fields().items()]
        lines.append("- {" + ", ".join(fields) + "}")
    return "\n".join(lines) + "\n"


def choose_stand_ins(model: Collection[str], table: Path) -> list[StandIn]:
    """The stand-ins to measure: the named ones, or all.

    Raises:
        ValueError: a name is none, or rows that would stay were measured elsewhere, or in other ways: the lines above
            the rows are about all of them.
    """
    stand_ins = list(record.list_stand_ins())
    unknown = sorted(set(model) - {stand_in.name for stand_in in stand_ins})
    if unknown:
        raise ValueError(f"--model: there is no stand-in {', '.join(unknown)}")
    chosen = [stand_in for stand_in in stand_ins if not model or stand_in.name in model]
    if len(chosen) == len(stand_ins) or not table.is_file():
        return chosen
    first, *before = [line for line in table.read_text(encoding="utf-8").splitlines() if line.startswith("#")] or [""]
    # The last line says what a column means.
    if before[:-1] != describe_conditions() or not first.endswith(describe_machine()):
        raise ValueError(f"{table}: the rows that would stay were measured elsewhere or otherwise; leave out --model")
    return chosen


def main(
    model: Annotated[list[str] | None, typer.Option("--model", help="Only this stand-in; can be repeated.")] = None,
    folder: Annotated[Path, typer.Option("--folder", help="The recorded answers.")] = Path("expected/embedded"),
    table: Annotated[Path, typer.Option("--table", help="The file to write.")] = TABLE,
) -> None:
    """Measure the stand-ins in float32 and write how far rounding moves them; other rows of the table stay."""
    try:
        chosen = choose_stand_ins(model or [], table)
    except ValueError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(2) from None
    rows = {row.name: row for row in MeasuredRounding.read(table)} if table.is_file() else {}
    rows |= {stand_in.name: measure(stand_in, folder) for stand_in in chosen}
    names = [stand_in.name for stand_in in record.list_stand_ins()]
    write_atomically(table, format_table([rows[name] for name in names if name in rows]).encode())
    typer.echo(str(table))


if __name__ == "__main__":
    typer.run(main)
