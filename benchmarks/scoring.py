"""Scoring against lm-eval: time, tokens and peak memory: `python benchmarks/scoring.py`.

The requests of the embedded tasks go through lm-eval's `hf` class, which is what `lm_eval --model hf` runs, through
scanproof's model class behind lm-eval's own log-likelihood path (`plain`), and through the same class with the engine
of `scanproof.scoring` (`shared`).  Where transformers has no class for the model, `plain` is what is compared with.
Each engine is a process of its own with one thread; they score the same requests in turn, and wait while another works.
Each takes the batch size that is best for it, found in a first pass.  Timed is what differs, `loglikelihood` with its
tokenization: no imports, no loading, no building of tasks.  Linux with glibc only.

Exit code 1 where a log-likelihood is further from that of the row before than rounding moves it.
"""

from __future__ import annotations

import os
import platform
import shlex
import statistics
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import chain
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Annotated

import typer
from scoring_engines import ENGINES, Engine, Pass, Subject, Text, Work, running, server
from scoring_tasks import FULL, Task, prepared, random_model, tasks_of

from scanproof import expected, listing, settings
from scanproof.values import EvalJob

ROOT = Path(__file__).parents[1]
BATCH_SIZES = (16, 64, 256)
TUNED_ON, TUNED_REQUESTS, TUNING = ("hellaswag", "race", "mmlu"), 80, ""
"""Tasks whose first requests choose the batch size, and the name that these have together."""
TRUE_SIZE = "mamba-130m-random"
TRUE_SIZE_SHARE, TRUE_SIZE_TASKS = 0.01, ("arc_easy", "hellaswag", "piqa", "winogrande", "mmlu")
TOKENS, WALL, WALL_OF_A_TASK, MEMORY = 1.1, 0.4, 1.0, 1.0
"""Goals: tokens that run to distinct tokens; wall time to lm-eval's, in total and of every task; peak memory."""
GROWN = 10, 5
"""How many times the documents, and the examples."""


@dataclass(frozen=True)
class Row:
    """What an engine did with the same requests again and again."""

    task: str
    engine: Engine
    batch: int
    work: Work
    passes: Sequence[Pass]

    @property
    def seconds(self) -> float:
        """Median of the passes."""
        return statistics.median(each.seconds for each in self.passes)

    @property
    def processor(self) -> float:
        """Median of the passes."""
        return statistics.median(each.processor for each in self.passes)

    @property
    def memory(self) -> float:
        """Median of the passes."""
        return statistics.median(each.memory for each in self.passes)

    def apart(self, other: Row) -> tuple[float, int]:
        """Largest difference of a log-likelihood, and the number of greedy flags that differ."""
        pairs = list(zip(self.passes[0].answers, other.passes[0].answers, strict=True))
        return max(abs(one[0] - two[0]) for one, two in pairs), sum(one[1] != two[1] for one, two in pairs)


def measure(
    context: ForkServerContext, subject: Subject, tasks: Mapping[str, Task], repeats: int
) -> list[dict[str, Row]]:
    """A row per task of each engine that can score with the model; the engines take turns."""
    engines = [engine for engine in ENGINES if engine.can(subject)]
    with ExitStack() as processes:
        texts = {TUNING: tuning(tasks)} | {name: task.texts for name, task in tasks.items()}
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
        tried = {size: turn([size] * len(engines), [TUNING])[TUNING] for size in (64, *BATCH_SIZES)}
        batches = [
            min(BATCH_SIZES, key=lambda size: tried[size][number].processor) for number in range(len(engines))
        ]
        turns = [turn(batches, tasks) for _ in range(repeats)]
    return [
        {task: Row(task, engine, batch, work[0][task], [each[task][number] for each in turns]) for task in tasks}
        for number, (engine, batch) in enumerate(zip(engines, batches, strict=True))
    ]


def tuning(tasks: Mapping[str, Task]) -> list[Text]:
    """Some of the requests: prompts without examples, and with."""
    parts = [tasks[name].texts for name in tasks if name in TUNED_ON] or [task.texts for task in tasks.values()]
    return [text for part in parts for text in part[:TUNED_REQUESTS]]


def total(rows: Mapping[str, Row]) -> Row:
    """All tasks as one: times and tokens added up, the largest of the peaks."""
    found = list(rows.values())
    passes = [
        Pass(
            sum(each.seconds for each in turn),
            sum(each.processor for each in turn),
            max(each.memory for each in turn),
            sum(each.tokens for each in turn),
            sum(each.padding for each in turn),
            tuple(answer for each in turn for answer in each.answers),
        )
        for turn in zip(*(row.passes for row in found), strict=True)
    ]
    work = [row.work for row in found]
    asked = Work(sum(w.requests for w in work), sum(w.plain for w in work), sum(w.distinct for w in work))
    return Row("total", found[0].engine, found[0].batch, asked, passes)


HEAD = (
    f"{'model':<20} {'task':<15} {'engine':<8} {'batch':>5} {'plain':>8} {'distinct':>8} {'run':>8} {'/dist.':>6} "
    f"{'padding':>8} {'seconds':>8} {'wall':>5} {'cpu':>5} {'MiB':>6} {'mem.':>5} {'apart':>8}"
)


def line(name: str, row: Row, baseline: Row, before: Row) -> str:
    """Tokens, time and memory of a row; ratios to the baseline, pass by pass; how far the answers are from a row's."""
    ran = row.passes[0]
    text = (
        f"{name:<20} {row.task:<15} {row.engine.name:<8} {row.batch:>5} {row.work.plain:>8} {row.work.distinct:>8} "
        f"{ran.tokens:>8} {ran.tokens / row.work.distinct:>6.2f} {ran.padding:>8} {row.seconds:>8.2f}"
    )
    if row is baseline:
        return f"{text} {'':>11} {row.memory / 2**20:>6.0f}"
    wall, processor, memory = ratios(row, baseline)
    apart, flags = row.apart(before)
    text += f" {wall:>5.2f} {processor:>5.2f} {row.memory / 2**20:>6.0f} {memory:>5.2f} {apart:>8.1e}"
    return text + (" DIFFERENT" if apart > row.engine.apart else "") + (f" {flags} FLAGS" if flags else "")


def ratios(row: Row, baseline: Row) -> tuple[float, float, float]:
    """Wall time, processor time, memory."""
    pairs = list(zip(row.passes, baseline.passes, strict=True))
    return (
        statistics.median(ours.seconds / theirs.seconds for ours, theirs in pairs),
        statistics.median(ours.processor / theirs.processor for ours, theirs in pairs),
        statistics.median(ours.memory / theirs.memory for ours, theirs in pairs),
    )


def lines(name: str, engines: Sequence[Mapping[str, Row]]) -> Iterator[str]:
    """Each task of the last engine, then all tasks of every engine."""
    baseline, before, last = engines[0], engines[-2], engines[-1]
    for task, row in last.items():
        yield line(name, row, baseline[task], before[task])
    totals = [total(rows) for rows in engines]
    for row, before_it in zip(totals, [totals[0], *totals], strict=False):
        yield line(name, row, totals[0], before_it)


def wrong(engines: Sequence[Mapping[str, Row]]) -> bool:
    """Whether an engine's answers are not those of the row before."""
    return any(
        row.apart(one[task])[0] > row.engine.apart
        for one, other in zip(engines, engines[1:], strict=False)
        for task, row in other.items()
    )


def goals(measured: Mapping[str, Sequence[Mapping[str, Row]]]) -> Iterator[str]:
    """What the issue asks for, and whether it came out."""
    pairs = {
        (name, task): (row, engines[0][task]) for name, engines in measured.items() for task, row in engines[-1].items()
    }
    whole = {name: (total(engines[-1]), total(engines[0])) for name, engines in measured.items()}
    tokens = {name: row.passes[0].tokens / row.work.distinct for name, (row, _) in pairs.items()}
    walls = {name: ratios(*pair) for name, pair in pairs.items()}
    in_total = {name: ratios(*pair) for name, pair in whole.items()}
    seconds = [sum(pair[place].seconds for pair in whole.values()) for place in (0, 1)]
    processor = [sum(pair[place].processor for pair in whole.values()) for place in (0, 1)]
    yield f"all models: wall {seconds[0] / seconds[1]:.2f}, cpu {processor[0] / processor[1]:.2f} of {seconds[1]:.0f} s"
    checks = (
        (f"tokens run <= {TOKENS} x distinct, each task", tokens, TOKENS),
        (f"wall <= {WALL} x, each model's total", {name: found[0] for name, found in in_total.items()}, WALL),
        (f"wall <= {WALL_OF_A_TASK} x, each task", {name: found[0] for name, found in walls.items()}, WALL_OF_A_TASK),
        (f"memory <= {MEMORY} x, each model", {name: found[2] for name, found in in_total.items()}, MEMORY),
        (f"memory <= {MEMORY} x, each task", {name: found[2] for name, found in walls.items()}, MEMORY),
    )
    for goal, found, most in checks:
        missed = sorted((name for name, value in found.items() if value > most), key=lambda name: -found[name])
        worst = max(found, key=lambda name: found[name])
        told = f"{goal}: {len(found) - len(missed)} of {len(found)}; most {found[worst]:.2f} ({shown(worst)})"
        yield told + ("".join(f"\n    missed: {shown(name)} {found[name]:.2f}" for name in missed))


def shown(name: str | tuple[str, str]) -> str:
    """A model, or a model's task."""
    return name if isinstance(name, str) else " ".join(name)


def subjects_of(folder: Path, chosen: str, true_size: bool) -> Iterator[tuple[Subject, EvalJob, EvalJob]]:
    """The stand-ins, then the random model, each with its job without examples and its job with them."""
    jobs = [job for job, _ in listing.jobs(expected.load(ROOT / "expected").values) if job.suite == "embedded"]
    for job in (each for each in jobs if each.num_fewshot == 0):
        examples = next(each for each in jobs if each.num_fewshot and models_name(each) == models_name(job))
        if chosen in models_name(job):
            source = settings.EMBEDDED_MIRROR / job.pretrained
            yield Subject(models_name(job), job, source), job, examples
        if true_size and job.name.startswith("embedded-mamba1-tiny") and chosen in TRUE_SIZE:
            yield Subject(TRUE_SIZE, job, random_model(folder / TRUE_SIZE)), job, examples


def models_name(job: EvalJob) -> str:
    """A job's name without what all have."""
    return job.name.removeprefix("embedded-").rsplit("-", 1)[0]


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
        tasks = tasks_of(context, request, 1.0, each=each, shots=shots)
        engines = measure(context, subject, tasks, repeats)
        for name in ("all" if len(tasks) > 1 else "mmlu",):
            row, baseline = total(engines[-1]), total(engines[0])
            count = sum(task.documents for task in tasks.values())
            ran, work = row.passes[0].tokens, row.work
            yield (
                f"{subject.name:<20} {name:<10} {count:>9} {shots:>5} {work.plain / count:>8.1f} "
                f"{work.distinct / count:>8.1f} {ran / count:>8.1f}  {1e3 * baseline.seconds / count:>9.2f} "
                f"{1e3 * row.seconds / count:>8.2f} {1e3 * row.processor / count:>8.2f}"
            )


def main(
    repeats: Annotated[int, typer.Option(help="Passes of each engine after its batch size is chosen.")] = 3,
    documents: Annotated[int, typer.Option(help="Of each task, of 200; of MMLU's subjects the same share.")] = 20,
    model: Annotated[str, typer.Option(help="Only models whose name holds this.")] = "",
    tasks: Annotated[str, typer.Option(help="Only these tasks, with commas.")] = "",
    grow: Annotated[bool, typer.Option("--growth", help="Tokens and time per document as both grow, instead.")] = False,
) -> None:
    """Print a row per model and task, a total per engine, and which goals were met."""
    began = time.monotonic()
    typer.echo("$ " + shlex.join(["python", *sys.argv]))
    typer.echo(
        f"{time.strftime('%Y-%m-%d %H:%M')}, load average {os.getloadavg()[0]:.1f}, {os.cpu_count()} cores, "
        f"Python {platform.python_version()}"
    )
    failed = False
    with tempfile.TemporaryDirectory() as folder:
        store = Path(folder) / "store"
        found = list(subjects_of(Path(folder), model, not grow))
        made = [prepared(job, store) for job in found[0][1:]]
        context = server(made[0][1])
        if grow:
            for text in growth(context, found[0][0], found[0][1:], store, documents, repeats):
                typer.echo(text)
            return
        measured: dict[str, Sequence[Mapping[str, Row]]] = {}
        typer.echo(HEAD)
        asked: dict[float, dict[str, Task]] = {}
        for subject, *_ in found:
            share = TRUE_SIZE_SHARE if subject.name == TRUE_SIZE else documents / FULL
            if share not in asked:
                asked[share] = dict(chain(*(tasks_of(context, request, share).items() for request, _ in made)))
            wanted = TRUE_SIZE_TASKS if subject.name == TRUE_SIZE else tuple(asked[share])
            wanted = tuple(tasks.split(",")) if tasks else wanted
            chosen = {name: task for name, task in asked[share].items() if name in wanted}
            measured[subject.name] = measure(context, subject, chosen, repeats)
            for text in lines(subject.name, measured[subject.name]):
                typer.echo(text)
            failed |= wrong(measured[subject.name])
    for text in goals(measured):
        typer.echo(text)
    typer.echo(f"load average {os.getloadavg()[0]:.1f}; took {time.monotonic() - began:.0f} s")
    raise typer.Exit(int(failed))


if __name__ == "__main__":
    typer.run(main)
