"""The rows of `benchmarks/scoring.py`: ways to score, and the process that each of them scores in."""

from __future__ import annotations

import ctypes
import gc
import itertools
import logging
import math
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any

import transformers_copy
from resident import begin_peak, resident

from scanproof.evaluation.command_line import model_args
from scanproof.numbers.values import EvalJob

Text = tuple[str, str]
"""Context and continuation."""


@dataclass(frozen=True)
class Subject:
    """A model that is scored with."""

    name: str
    job: EvalJob
    """Model class, dtype and length."""
    source: Path
    """Its checkpoint."""


@dataclass(frozen=True)
class Engine:
    """One way to score; a further one is one more row of `ENGINES`."""

    name: str
    build: Callable[[Subject, Path], Any]
    """(model, an empty folder) -> lm-eval's model."""
    can: Callable[[Subject], bool]
    """Whether it can score with a model, and differs from the rows before it."""
    apart: float
    """Largest difference of a log-likelihood, in nats, from that of the row before, where all is right, in float32."""


@dataclass(frozen=True)
class Work:
    """What a task asks for, counted apart from every engine."""

    requests: int
    plain: int
    """Tokens of all distinct inputs: what lm-eval runs."""
    distinct: int
    """Tokens of all distinct beginnings of inputs: what has to run at least once."""
    rounding: tuple[float, ...] = ()
    """Nats that rounding may move each request by in half precision; none in float32, see `Engine.apart`."""
    epsilon: float = 0.0
    """The share of a log-likelihood that rounding may move it by beside that."""


@dataclass(frozen=True)
class Pass:
    """All requests of a task scored once."""

    seconds: float
    processor: float
    """Seconds of processor time: what other processes on the machine take does not count."""
    memory: int
    """Peak, in bytes beyond what the process held before its first batch; on a GPU, of the GPU's memory."""
    tokens: int
    """That ran, padding apart."""
    padding: int
    answers: tuple[tuple[float, bool], ...]
    """Log-likelihood, and whether it is greedy, in the order of the requests."""
    passes: int = 0
    """Passes of the model: on a GPU each launches hundreds of kernels."""


def lm_eval(subject: Subject, folder: Path) -> Any:
    """lm-eval's `hf` class, as `lm_eval --model hf` has it, on the same weights in transformers' layout."""
    from lm_eval.models.huggingface import HFLM

    job, source = subject.job, subject.source
    copy = {"mamba_ssm": transformers_copy.write, "depth_pruned": shallower}.get(job.model)
    if copy is not None:
        source = copy(source, folder / "copy")
    return HFLM(pretrained=str(source), device=job.device, dtype=job.dtype, max_length=job.max_length)


def shallower(source: Path, target: Path) -> Path:
    """The checkpoint with the layers taken out that pythia-tiny-without-1 lacks."""
    from transformers import AutoModelForCausalLM

    from scanproof.models.pruning.blocks import LayerBlock
    from scanproof.models.pruning.removal import remove_block

    model = AutoModelForCausalLM.from_pretrained(source)
    remove_block(model, LayerBlock(1, 1))
    model.save_pretrained(target)
    for path in source.glob("tokenizer*"):
        shutil.copy(path, target)
    return target


def has_class(subject: Subject) -> bool:
    """Whether transformers has a class for the model."""
    from scanproof.models.layout import read_config

    if subject.job.model != "mamba_ssm":
        return subject.job.model in ("hf", "depth_pruned")
    return transformers_copy.has_class(read_config(subject.source / "config.json"))


def has_own_class(subject: Subject) -> bool:
    """Whether scanproof's class is another than lm-eval's own."""
    return subject.job.model != "hf"


def always(subject: Subject) -> bool:
    """For every model."""
    return True


def plain(subject: Subject, folder: Path) -> Any:
    """scanproof's class behind lm-eval's own log-likelihood path, as a worker sets it up."""
    from lm_eval.api.registry import get_model

    from scanproof import models
    from scanproof.evaluation.worker.checkpoint_check import require_complete_checkpoint

    job = subject.job
    models.register()
    with require_complete_checkpoint():
        return get_model(job.model).create_from_arg_obj(
            {**model_args(job), "pretrained": str(subject.source)}, {"device": job.device}
        )


def shared(subject: Subject, folder: Path) -> Any:
    """`plain` with the engine of `scanproof.scoring`."""
    from scanproof import scoring

    model = plain(subject, folder)
    model.tally = scoring.install(model, lambda message: None, always=True)
    return model


ENGINES = (
    Engine("lm_eval", lm_eval, has_class, 0.0),
    # Two implementations of one model in float32; of lm-eval's own class there is one.
    Engine("plain", plain, has_own_class, 1e-3),
    Engine("shared", shared, always, 1e-4),
)
"""The first that can score with a model is what the others are compared with."""


def serve(pipe: Connection, engine: Engine, subject: Subject, tasks: Mapping[str, Sequence[Text]]) -> None:
    """A process with one engine: it sends the `Work` of each task, and a `Pass` for each (task, batch size)."""
    silence()
    with TemporaryDirectory() as folder:
        model = engine.build(subject, Path(folder))
        requests = {task: [SimpleNamespace(args=text) for text in texts] for task, texts in tasks.items()}
        positions = counted(model)
        work = {task: work_of(model, texts, subject.job.dtype) for task, texts in tasks.items()}
        before = settled(subject.job.device)
        pipe.send(work)
        while (told := pipe.recv()) is not None:
            task, model.batch_size_per_gpu = told
            pipe.send(scored(model, requests[task], work[task], positions, before, subject.job.device))


def scored(model: Any, requests: list[Any], work: Work, positions: list[int], before: int, device: str) -> Pass:
    """Score some requests; `positions` is what `counted` returned, `before` the bytes without them."""
    settled(device)
    positions.clear()
    tally = getattr(model, "tally", None)
    tokens, padding, passes = (tally.tokens, tally.padding, tally.passes) if tally else (0, 0, 0)
    began, worked = time.perf_counter(), time.process_time()
    answers = model.loglikelihood(requests, disable_tqdm=True)
    seconds, processor = time.perf_counter() - began, time.process_time() - worked
    if tally:
        tokens, padding, passes = tally.tokens - tokens, tally.padding - padding, tally.passes - passes
    else:
        tokens, padding, passes = work.plain, sum(positions) - work.plain, len(positions)
    memory = peak(device) - before
    # What it keeps for later batches is not there for the next engine.
    settled(device)
    return Pass(seconds, processor, memory, tokens, padding, tuple(map(tuple, answers)), passes)


def counted(model: Any) -> list[int]:
    """A list to which the positions of each batch of lm-eval's own path are appended."""
    positions: list[int] = []
    call = model._model_call

    def told(tokens: Any, *args: Any, **options: Any) -> Any:
        positions.append(tokens.numel())
        return call(tokens, *args, **options)

    model._model_call = told
    return positions


def work_of(model: Any, texts: Sequence[Text], dtype: str) -> Work:
    """What a task asks of a model, with its tokenizer; what rounding may do is what a night's spot check allows."""
    import torch

    from scanproof.scoring.spot_checks import ROUNDING

    pairs = [model._encode_pair(*text) for text in texts]
    inputs = sorted({tuple((context + rest)[-model.max_length - 1 : -1]) for context, rest in pairs})
    again = sum(beginning(one, other) for one, other in itertools.pairwise(inputs))
    tokens = sum(map(len, inputs))
    kind: torch.dtype = getattr(torch, dtype)
    steps, epsilon = ROUNDING.get(kind), 0.0 if kind not in ROUNDING else torch.finfo(kind).eps
    rounding = () if steps is None else tuple(steps * math.sqrt(len(rest)) for _, rest in pairs)
    return Work(len(texts), tokens, tokens - again, rounding, epsilon)


def beginning(one: Sequence[int], other: Sequence[int]) -> int:
    """Length of what two inputs have in common at their beginning."""
    pairs = zip(one, other, strict=False)
    return len(list(itertools.takewhile(lambda pair: pair[0] == pair[1], pairs)))


def settled(device: str) -> int:
    """Give unused memory back and begin a new peak; returns the bytes in memory, of a GPU in the GPU's."""
    gc.collect()
    if device.startswith("cuda"):
        import torch

        torch.cuda.synchronize()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated()
    ctypes.CDLL(None).malloc_trim(0)
    return begin_peak()


def peak(device: str) -> int:
    """The most bytes in memory since `settled`."""
    if device.startswith("cuda"):
        import torch

        return torch.cuda.max_memory_allocated()
    return resident("VmHWM")


def silence() -> None:
    """Send standard output, that of libraries too, nowhere; errors stay."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)
    logging.disable(logging.WARNING)


def server(variables: Mapping[str, str]) -> ForkServerContext:
    """Processes that start with the libraries imported."""
    import multiprocessing

    quiet = {"TQDM_DISABLE": "1", "HF_DATASETS_DISABLE_PROGRESS_BARS": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    os.environ.update({**variables, **quiet})
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch", "transformers", "lm_eval.models.huggingface", "scanproof.scoring"])
    return context


@contextmanager
def running(
    context: ForkServerContext, engine: Engine, subject: Subject, tasks: Mapping[str, Sequence[Text]]
) -> Iterator[Connection]:
    """The engine's process; the first that it sends is the work of each task, when it is loaded."""
    here, there = context.Pipe()
    process = context.Process(target=serve, args=(there, engine, subject, tasks), daemon=True)
    process.start()
    there.close()
    try:
        yield here
        here.send(None)
    finally:
        process.join(10)
        process.terminate()
