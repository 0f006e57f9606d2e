"""Throughput and memory of scoring against plain lm-eval: `python benchmarks/scoring.py`.

The requests of each stand-in's embedded job go through scanproof's model class, wrapped as a worker wraps it, and
through lm-eval's `hf` class with the same weights in transformers' layout.  Each engine is a process of its own; they
score the same requests in turn, and wait while the other works.  Timed is the scoring alone: no imports, no loading, no
building of tasks.  Where transformers has no class for the model, ours stands alone.  Linux only.
"""

from __future__ import annotations

import io
import logging
import multiprocessing
import os
import shlex
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, redirect_stderr
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Annotated, Any

import transformers_copy
import typer
from resident import begin_peak, resident

from scanproof import evaluation, expected, listing, settings
from scanproof.values import EvalJob

ROOT = Path(__file__).parents[1]
AGREED = 1e-3
"""Largest difference of two log-likelihoods, in nats, that two computations of one float32 model may have."""
SILENT = {"TQDM_DISABLE": "1", "HF_DATASETS_DISABLE_PROGRESS_BARS": "1"}
Request = Mapping[str, Any]
"""What a worker reads, see `scanproof.evaluation.request_for_worker`."""


@dataclass(frozen=True)
class Engine:
    """One way to score; a further one is one more row of `ENGINES`."""

    name: str
    build: Callable[[Request, Path], Any]
    """(what a worker reads, an empty folder) -> lm-eval's model."""
    can: Callable[[EvalJob], bool]
    """Whether it can score a job."""


@dataclass(frozen=True)
class Work:
    """What the engines of a job score."""

    requests: int
    tokens: int


@dataclass(frozen=True)
class Passage:
    """All requests scored once."""

    seconds: float
    processor: float
    """Seconds of processor time: what other processes on the machine take does not count."""
    memory: int
    """Peak so far, in bytes beyond what the process held before its first batch."""
    answers: tuple[float, ...]
    """Log-likelihoods, in the order of the requests."""


def plain(request: Request, folder: Path) -> Any:
    """lm-eval's `hf` class on the same weights in transformers' layout."""
    from lm_eval.models.huggingface import HFLM

    job = request["job"]
    source = Path(request["model_args"]["pretrained"])
    copy = {"mamba_ssm": transformers_copy.write, "depth_pruned": shallower}.get(job["model"])
    if copy is not None:
        source = copy(source, folder / "copy")
    return HFLM(
        pretrained=str(source), device=job["device"], dtype=job["dtype"], batch_size=job["batch_size"],
        max_length=job["max_length"],
    )  # fmt: skip


def shallower(source: Path, target: Path) -> Path:
    """The checkpoint with the layers taken out that pythia-tiny-without-1 lacks."""
    from transformers import AutoModelForCausalLM

    from scanproof.models.removal import remove_block
    from scanproof.pruning import Block

    model = AutoModelForCausalLM.from_pretrained(source)
    remove_block(model, Block(1, 1))
    model.save_pretrained(target)
    for path in source.glob("tokenizer*"):
        shutil.copy(path, target)
    return target


def has_copy(job: EvalJob) -> bool:
    """Whether transformers has a class for the model."""
    from scanproof.models.layout import read_config

    if job.model != "mamba_ssm":
        return job.model in ("hf", "depth_pruned")
    return transformers_copy.has_class(read_config(settings.EMBEDDED_MIRROR / job.pretrained / "config.json"))


def ours(request: Request, folder: Path) -> Any:
    """The model as a worker sets it up, progress and all."""
    from lm_eval.api.registry import get_model

    from scanproof import models, worker
    from scanproof.load_report import complete_checkpoint

    job = request["job"]
    models.register()
    reporter = worker.Reporter(folder / "progress.jsonl")
    with complete_checkpoint():
        model = get_model(job["model"]).create_from_arg_obj(
            dict(request["model_args"]), {"batch_size": job["batch_size"], "device": job["device"]}
        )
    model.set_cache_hook(worker.CountingHook(reporter.advance))
    worker.count_requests(model, reporter)
    return model


ENGINES = (Engine("lm_eval", plain, has_copy), Engine("scanproof", ours, lambda job: True))
"""The first is what the others are compared with."""


def requests_of(request: Request, documents: int) -> list[Any]:
    """The log-likelihood requests that lm-eval makes of a job, of the first `documents` of each task."""
    from lm_eval.api.model import LM

    from scanproof import worker

    found: list[Any] = []

    class Listener(LM):  # type: ignore[misc]
        """Keeps what it is asked."""

        def loglikelihood(self, requests: list[Any], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
            found.extend(requests)
            return [(0.0, False)] * len(requests)

        def loglikelihood_rolling(self, requests: list[Any], disable_tqdm: bool = False) -> list[float]:
            raise NotImplementedError("the embedded tasks have no rolling log-likelihoods")

        def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
            raise NotImplementedError("the embedded tasks generate nothing")

    # lm-eval's progress bars go by no setting.
    with redirect_stderr(io.StringIO()):
        manager, tasks = worker.load_tasks(request)
        worker.evaluate(Listener(), {**request["job"], "limit": documents}, tasks, manager, 0)
    return found


def serve(
    pipe: Connection, build: Callable[[Request, Path], Any], request: Request, variables: Mapping[str, str], count: int
) -> None:
    """A process with one engine: says what it has to score, then scores it each time it is told to."""
    os.environ.update({**variables, **SILENT})
    os.chdir(settings.EMBEDDED_MIRROR)
    silence()
    with tempfile.TemporaryDirectory() as folder:
        model = build(request, Path(folder))
        requests = requests_of(request, count)
        pairs = [model._encode_pair(*each.args) for each in requests]
        # The last token is scored, never read.
        pipe.send(Work(len(requests), sum(len(context) + len(continuation) - 1 for context, continuation in pairs)))
        before = begin_peak()
        model.loglikelihood(requests[: request["job"]["batch_size"]], disable_tqdm=True)
        while pipe.recv():
            began, worked = time.perf_counter(), time.process_time()
            answers = model.loglikelihood(requests, disable_tqdm=True)
            spent = time.perf_counter() - began, time.process_time() - worked
            pipe.send(Passage(*spent, resident("VmHWM") - before, tuple(answer[0] for answer in answers)))


def silence() -> None:
    """Send standard output, that of libraries too, nowhere; errors stay."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)
    logging.disable(logging.WARNING)


@contextmanager
def running(engine: Engine, request: Request, variables: Mapping[str, str], count: int) -> Iterator[Connection]:
    """The engine's process; the first that it sends is what it has to score, when it is loaded and warm."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=serve, args=(there, engine.build, request, variables, count), daemon=True)
    process.start()
    there.close()
    try:
        yield here
        here.send(False)
    finally:
        process.join(10)
        process.terminate()


def measure(job: EvalJob, documents: int, repeats: int, store: Path) -> tuple[Work, dict[str, list[Passage]]]:
    """Every engine that can score the job, in turn."""
    where = evaluation.Settings(
        store=store, mirror=settings.EMBEDDED_MIRROR, fresh=True, timeout=None, session="benchmark"
    )
    request, variables = evaluation.request_for_worker(job, where)
    with ExitStack() as processes:
        pipes: dict[str, Connection] = {}
        work: set[Work] = set()
        for engine in (each for each in ENGINES if each.can(job)):
            pipes[engine.name] = processes.enter_context(running(engine, request, variables, documents))
            work.add(pipes[engine.name].recv())
        assert len(work) == 1, f"{job.name}: the engines were given different requests: {work}"
        passages: dict[str, list[Passage]] = {name: [] for name in pipes}
        for _ in range(repeats):
            for name, pipe in pipes.items():
                pipe.send(True)
                passages[name].append(pipe.recv())
    return work.pop(), passages


def rows(job: EvalJob, work: Work, passages: Mapping[str, Sequence[Passage]]) -> Iterator[str]:
    """A line per engine; ratios to the first engine of seconds, pair by pair, and of memory."""
    name = job.name.removeprefix("embedded-")
    baseline = passages.get(ENGINES[0].name)
    for engine, found in passages.items():
        seconds = statistics.median(each.seconds for each in found)
        memory = statistics.median(each.memory for each in found)
        line = (
            f"{name:<28} {engine:<10} {work.requests / seconds:>10.0f} {work.tokens / seconds:>9.0f} "
            f"{memory / 2**20:>6.0f}"
        )
        if baseline is not None and found is not baseline:
            line += compared(baseline, found)
        yield line


def compared(baseline: Sequence[Passage], found: Sequence[Passage]) -> str:
    """Ratios of wall time, processor time and memory, and how far the answers are apart."""
    pairs = list(zip(baseline, found, strict=True))
    wall = statistics.median(ours.seconds / theirs.seconds for theirs, ours in pairs)
    processor = statistics.median(ours.processor / theirs.processor for theirs, ours in pairs)
    memory = statistics.median(ours.memory / theirs.memory for theirs, ours in pairs)
    apart = max(abs(a - b) for a, b in zip(baseline[0].answers, found[0].answers, strict=True))
    told = f" {wall:>6.2f} {processor:>6.2f} {memory:>6.2f} {apart:>10.1e}"
    return told + (" DIFFERENT" if apart > AGREED else "")


def main(
    repeats: Annotated[int, typer.Option(help="Passes of each engine; medians are shown.")] = 5,
    documents: Annotated[int, typer.Option(help="Documents of each task.")] = 20,
    model: Annotated[str, typer.Option(help="Only jobs whose name holds this.")] = "",
    tasks: Annotated[str, typer.Option(help="These of lm-eval's tasks, with commas; else all of the job.")] = "",
) -> None:
    """Print a row per stand-in and engine: requests and tokens a second, peak MiB; ratios to the first."""
    loaded = expected.load(ROOT / "expected")
    jobs = [job for job, _ in listing.jobs(loaded.values) if job.suite == "embedded" and model in job.name]
    typer.echo("$ " + shlex.join(["python", *sys.argv]))
    typer.echo(f"load average {os.getloadavg()[0]:.1f}")
    ratios = f"{'time':>6} {'cpu':>6} {'memory':>6} {'difference':>10}"
    typer.echo(f"{'job':<28} {'engine':<10} {'requests/s':>10} {'tokens/s':>9} {'MiB':>6} {ratios}")
    with tempfile.TemporaryDirectory() as store:
        for job in jobs:
            chosen = replace(job, tasks=tuple(sorted(tasks.split(",")))) if tasks else job
            for line in rows(chosen, *measure(chosen, documents, repeats, Path(store))):
                typer.echo(line)


if __name__ == "__main__":
    typer.run(main)
