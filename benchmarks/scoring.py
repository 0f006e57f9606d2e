"""Scoring against lm-eval: time, tokens and peak memory: `python benchmarks/scoring.py`.

The requests of the embedded tasks go through lm-eval's `hf` class, which is what `lm_eval --model hf` runs, through
scanproof's model class behind lm-eval's own log-likelihood path (`plain`), and through the same class with the engine
of `scanproof.scoring` (`shared`).  Where transformers has no class for the model, `plain` is what is compared with.
Each engine is a process of its own with one thread; they score the same requests in turn, and wait while another works.
Each takes the batch size that is best for it, found in a first pass.  Timed is what differs, `loglikelihood` with its
tokenization: no imports, no loading, no building of tasks.  Linux with glibc only.

`--device cuda` scores with published models of true size instead, whose weights are random (`scoring_sizes.py`), in the
dtype of their jobs and through the kernels that are installed.  `--small` tries the same way with tiny ones, also on a
CPU.

Exit code 1 where a log-likelihood is further from that of the row before than rounding moves it.
"""

from __future__ import annotations

import os
import platform
import shlex
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from itertools import chain
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Annotated

import typer
from scoring_engines import ENGINES, Pass, Subject, running, server
from scoring_sizes import SIZES, job_of, made
from scoring_table import HEAD, Row, goals, lines, total, wrong
from scoring_tasks import FULL, Request, Task, prepared, random_model, tasks_of

from scanproof.evaluation.planning import job_rows
from scanproof.numbers.expected import reader
from scanproof.numbers.values import EvalJob
from scanproof.plugin import options

ROOT = Path(__file__).parents[1]
BATCH_SIZES = (16, 64, 256)
NEARLY = 1.05
TUNED_ON, TUNED_REQUESTS = ("hellaswag", "race", "winogrande", "mmlu"), 320
"""Tasks whose first requests choose the batch size."""
TRUE_SIZE = "mamba-130m-random"
TRUE_SIZE_SHARE, TRUE_SIZE_TASKS = 0.02, ("arc_easy", "hellaswag", "piqa", "winogrande", "mmlu")
"""Four documents of each, and the ten of one subject of MMLU: a batch holds them."""
GROWN, GROWN_SHARE = (10, 5), 0.2
"""How many times the documents, and the examples; of MMLU's subjects."""


def measure(
    context: ForkServerContext,
    subject: Subject,
    tasks: Mapping[str, Task],
    repeats: int,
    sizes: Sequence[int] = BATCH_SIZES,
    warm: bool = False,
) -> list[dict[str, Row]]:
    """A row per task of each engine that can score with the model; the engines take turns.

    Args:
        sizes: of batches; of several each engine takes its best.
        warm: whether a pass that does not count comes first, for kernels that are tuned in it.
    """
    engines = [engine for engine in ENGINES if engine.can(subject)]
    with ExitStack() as processes:
        tuning = {f"some of {name}": tasks[name].texts[:TUNED_REQUESTS] for name in TUNED_ON if name in tasks}
        texts = tuning | {name: task.texts for name, task in tasks.items()}
        pipes = [processes.enter_context(running(context, engine, subject, texts)) for engine in engines]
        work = [pipe.recv() for pipe in pipes]
        assert all(each == work[0] for each in work), f"{subject.name}: the engines were given different requests"

        def turn(batches: Sequence[int], names: Iterable[str]) -> dict[str, list[Pass]]:
            passes: dict[str, list[Pass]] = {}
            for name in names:
                passes[name] = []
                for pipe, batch in zip(pipes, batches, strict=True):
                    pipe.send((name, batch))
                    passes[name].append(pipe.recv())
            return passes

        # The first of all warms up, so the size in the middle comes again.
        first = [sizes[len(sizes) // 2], *sizes] if len(sizes) > 1 else []
        tried = {size: turn([size] * len(engines), tuning or tasks) for size in first}
        batches = [
            best({size: sum(each[number].processor for each in tried[size].values()) for size in sizes})
            if tried
            else sizes[0]
            for number in range(len(engines))
        ]
        if warm:
            turn(batches, tasks)
        turns = [turn(batches, tasks) for _ in range(repeats)]
    return [
        {task: Row(task, engine, batch, work[0][task], [each[task][number] for each in turns]) for task in tasks}
        for number, (engine, batch) in enumerate(zip(engines, batches, strict=True))
    ]


def best(seconds: Mapping[int, float]) -> int:
    """The smallest batch size that is about as quick as the quickest: a larger one takes memory for nothing."""
    return min(size for size, took in seconds.items() if took <= NEARLY * min(seconds.values()))


def subjects_of(folder: Path, chosen: str, true_size: bool) -> Iterator[tuple[Subject, EvalJob, EvalJob]]:
    """The stand-ins, then the random model, each with its job without examples and its job with them."""
    jobs = [job for job, _ in job_rows.jobs(reader.load(ROOT / "expected").values) if job.suite == "embedded"]
    for job in (each for each in jobs if each.num_fewshot == 0):
        examples = next(each for each in jobs if each.num_fewshot and models_name(each) == models_name(job))
        if chosen in models_name(job):
            source = options.EMBEDDED_MIRROR / job.pretrained
            yield Subject(models_name(job), job, source), job, examples
        if true_size and job.name.startswith("embedded-mamba1-tiny") and chosen in TRUE_SIZE:
            yield Subject(TRUE_SIZE, job, random_model(folder / TRUE_SIZE)), job, examples


def models_name(job: EvalJob) -> str:
    """A job's name without what all have."""
    return job.name.removeprefix("embedded-").rsplit("-", 1)[0]


def at_true_size(
    context: ForkServerContext, tasks: Mapping[str, Task], device: str, chosen: str, small: bool, repeats: int
) -> bool:
    """Print the rows of each model of true size; whether all engines agree with plain on all of them."""
    jobs = [job for job, _ in job_rows.jobs(reader.load(ROOT / "expected").values)]
    # In the order in which they are asked for: time may run out.
    parts = chosen.split(",")
    rows = [row for part in parts for row in SIZES if part in row.name]
    unknown = [part for part in parts if not any(part in row.name for row in SIZES)]
    failed = bool(unknown)
    for part in unknown:
        typer.echo(f"no model's name holds {part!r}; there are {', '.join(row.name for row in SIZES)}", err=True)
    for row in rows:
        job = job_of(row, jobs, device)
        try:
            with made(context, row, job, small) as subject:
                engines = measure(context, subject, tasks, repeats, [int(job.batch_size)], warm=True)
        except (ValueError, EOFError) as error:
            typer.echo(f"{row.name}: not measured: {str(error) or 'an engine ended; what it said is above'}")
            failed = True
            continue
        for text in lines(row.name, engines):
            typer.echo(text)
        failed |= wrong(engines)
    return not failed


def texts_of(
    context: ForkServerContext, requests: Iterable[tuple[Request, object]], share: float, names: Sequence[str]
) -> dict[str, Task]:
    """The requests of the tasks of these names, in their order."""
    found = dict(chain(*(tasks_of(context, request, share).items() for request, _ in requests)))
    if missing := [name for name in names if name not in found]:
        raise typer.BadParameter(f"{', '.join(missing)}: no such task here; there are {', '.join(sorted(found))}")
    return {name: found[name] for name in names}


def growth(
    context: ForkServerContext, subject: Subject, jobs: Sequence[EvalJob], store: Path, documents: int, repeats: int
) -> Iterator[str]:
    """Tokens and time per document, before and after there are more documents and more examples."""
    yield f"{'':<44} {'per document: tokens':>33}  {'milliseconds':>25}"
    yield (
        f"{'model':<20} {'task':<10} {'documents':>9} {'shots':>5} {'plain':>8} {'distinct':>8} {'run':>8}  "
        f"{'baseline':>9} {'shared':>8} {'cpu':>8}"
    )
    more, longer = GROWN
    for job, each, shots in (
        (jobs[0], documents, 0), (jobs[0], documents * more, 0),
        (jobs[1], 1, 1), (jobs[1], more, 1), (jobs[1], 1, longer), (jobs[1], more, longer),
    ):  # fmt: skip
        request, _ = prepared(job, store)
        tasks = tasks_of(context, request, GROWN_SHARE, each=each, shots=shots)
        engines = measure(context, subject, tasks, repeats, [64])
        row, baseline = total(engines[-1]), total(engines[0])
        count = sum(task.documents for task in tasks.values())
        yield (
            f"{subject.name:<20} {'mmlu' if 'mmlu' in tasks else 'the others':<10} {count:>9} {shots:>5} "
            f"{row.work.plain / count:>8.1f} {row.work.distinct / count:>8.1f} {row.passes[0].tokens / count:>8.1f}  "
            f"{1e3 * baseline.seconds / count:>9.2f} {1e3 * row.seconds / count:>8.2f} "
            f"{1e3 * row.processor / count:>8.2f}"
        )


def refused(device: str) -> str | None:
    """Why nothing can be measured on a device; None where it can."""
    if device == "cpu":
        return None
    if device != "cuda":
        return "there are cpu and cuda"
    from scanproof.kernels.device import why_no_gpu

    return why_no_gpu()


def main(
    repeats: Annotated[int, typer.Option(help="Passes of each engine after its batch size is chosen.")] = 2,
    documents: Annotated[int, typer.Option(help="Of each task, of 200; of MMLU's subjects the same share.")] = FULL,
    model: Annotated[str, typer.Option(help="Only models whose name holds this; several of true size.")] = "",
    tasks: Annotated[str, typer.Option(help="Only these tasks, with commas.")] = "",
    grow: Annotated[bool, typer.Option("--growth", help="Tokens and time per document as both grow, instead.")] = False,
    device: Annotated[str, typer.Option(help="cpu, or cuda: published models of true size, instead.")] = "cpu",
    small: Annotated[bool, typer.Option(help="The way of --device cuda with tiny models, on either device.")] = False,
) -> None:
    """Print a row per model and task, a total per engine, and which goals were met."""
    began = time.monotonic()
    if reason := refused(device):
        typer.echo(f"scoring: --device {device}: {reason}", err=True)
        raise typer.Exit(2)
    typer.echo("$ " + shlex.join(["python", *sys.argv]))
    typer.echo(
        f"{time.strftime('%Y-%m-%d %H:%M')}, load average {os.getloadavg()[0]:.1f}, {os.cpu_count()} cores, "
        f"Python {platform.python_version()}"
    )
    failed = False
    with tempfile.TemporaryDirectory() as folder:
        store = Path(folder) / "store"
        sized = small or device != "cpu"
        found = list(subjects_of(Path(folder), *(("mamba1-tiny", False) if sized else (model, not grow))))
        made_of = [prepared(job, store) for job in found[0][1:]]
        context = server(made_of[0][1])
        if grow:
            for text in growth(context, found[0][0], found[0][1:], store, max(1, documents // 40), repeats):
                typer.echo(text)
            return
        typer.echo(HEAD)
        if sized:
            asked_for = texts_of(context, made_of, documents / FULL, tasks.split(",") if tasks else TRUE_SIZE_TASKS)
            agreed = at_true_size(context, asked_for, device, model, small, repeats)
            typer.echo(f"took {time.monotonic() - began:.0f} s")
            raise typer.Exit(int(not agreed))
        measured: dict[str, Sequence[Mapping[str, Row]]] = {}
        asked: dict[float, dict[str, Task]] = {}
        for subject, *_ in found:
            large = subject.name == TRUE_SIZE
            share = TRUE_SIZE_SHARE if large else documents / FULL
            if share not in asked:
                asked[share] = dict(chain(*(tasks_of(context, request, share).items() for request, _ in made_of)))
            wanted = TRUE_SIZE_TASKS if large else tuple(asked[share])
            wanted = tuple(tasks.split(",")) if tasks else wanted
            chosen = {name: task for name, task in asked[share].items() if name in wanted}
            measured[subject.name] = (
                measure(context, subject, chosen, 1, [64]) if large else measure(context, subject, chosen, repeats)
            )
            for text in lines(subject.name, measured[subject.name]):
                typer.echo(text)
            failed |= wrong(measured[subject.name])
    for text in goals(measured, TRUE_SIZE):
        typer.echo(text)
    typer.echo(f"load average {os.getloadavg()[0]:.1f}; took {time.monotonic() - began:.0f} s")
    raise typer.Exit(int(failed))


if __name__ == "__main__":
    typer.run(main)
