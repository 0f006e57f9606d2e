"""What a night of jobs will cost: requests, tokens, memory, time, and in which order.  No model is loaded."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import yaml

from scanproof.evaluation.planning import gpu_memory, job_rows, placement
from scanproof.numbers.expected.tasks import TaskInfo
from scanproof.numbers.values import EvalJob, PublishedValue

GPUS = Path(__file__).with_name("gpus.yaml")
EFFICIENCY = 0.25
"""Assumed share of a GPU's peak that a job reaches, until jobs were recorded on that GPU."""
READ = 1e9
"""Assumed bytes per second from disk to GPU."""
START = 60.0
"""Assumed seconds in which a worker starts, reads the tasks and writes its results."""
DECORATION = frozenset(["nvidia", "geforce", "tesla", "pcie", "sxm", "sxm4", "sxm5", "hbm2", "hbm2e", "hbm3", "hbm3e"])
"""What drivers add to the name of a GPU."""
SUPPORTED_ELSEWHERE = ("hf",)
"""lm-eval's own classes that jobs use."""


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """A GPU's datasheet."""

    name: str
    memory: float
    """GB."""
    bandwidth: float
    """GB/s."""
    half: float
    """Dense TFLOP/s in float16 or bfloat16."""
    single: float
    """Dense TFLOP/s in float32."""

    def flops(self, dtype: str) -> float:
        """Peak FLOP/s in a dtype; float64 is not what these GPUs are bought for and takes that of float32."""
        return 1e12 * (self.half if gpu_memory.width(dtype) == 2 else self.single)


@dataclass(frozen=True, kw_only=True)
class Recorded:
    """A finished evaluation of an earlier session."""

    job: EvalJob
    gpu: str
    """As its driver names it."""
    seconds: float
    peak: int | None
    """Largest allocation on the GPU, in bytes."""


@dataclass(frozen=True, kw_only=True)
class Work:
    """What a job computes."""

    documents: int
    requests: int
    tokens: int
    complete: bool
    """The costs of all its tasks are known."""


@dataclass(frozen=True, kw_only=True)
class Planned:
    """A job with what it will cost."""

    job: EvalJob
    values: int
    """Numbers that it measures."""
    work: Work
    need: gpu_memory.Need | None
    seconds: float | None
    because: str
    """Where `seconds` comes from."""
    status: str
    """`runs`, or why not: `unsupported`, `too large`, `remote code`."""
    reason: str
    peak: int | None
    """Measured on a GPU of this name, in bytes."""


def read_gpus(path: Path = GPUS) -> tuple[Gpu, ...]:
    """The table of GPUs."""
    return tuple(Gpu(**row) for row in yaml.safe_load(path.read_text(encoding="utf-8")))


def find_gpu(name: str, table: Sequence[Gpu]) -> Gpu | None:
    """The GPU that people or its driver call `name`; None when there is none, or another variant of it.

    The memory may be left out, as in the driver's `NVIDIA H200`, and people shorten as they like; of several rows that
    fit, the one with most words of `name`, or else the first.
    """
    asked = set(name.lower().replace("-", " ").split())
    fitting: list[tuple[int, Gpu]] = []
    for gpu in table:
        words = set(gpu.name.lower().split())
        missing = {word for word in words - asked if not word.endswith("gb")}
        if asked and not asked - words - DECORATION and (not missing or asked <= words):
            fitting.append((len(words & asked), gpu))
    return max(fitting, key=lambda each: each[0])[1] if fitting else None


def work(job: EvalJob, tasks: Mapping[str, TaskInfo]) -> Work:
    """Documents, requests and tokens of a job; a `limit` holds for each task."""
    names = [leaf for name in job.tasks for leaf in tasks[name].tasks or (name,)]
    infos = [tasks[name] for name in names]
    documents = {info.name: min(info.documents or 0, job.limit or info.documents or 0) for info in infos}
    known = list(gpu_memory.costs(job, tasks))
    tokens = 0.0
    for info, cost in known:
        length = min(cost.tokens * (1 + job.num_fewshot), job.max_length or cost.tokens * (1 + job.num_fewshot))
        tokens += documents[info.name] * cost.passes * length
    requests = sum(documents[info.name] * (info.choices or round_up(info)) for info in infos)
    return Work(
        documents=sum(documents.values()),
        requests=requests,
        tokens=round(tokens),
        complete=len(known) == len(infos),
    )


def round_up(info: TaskInfo) -> int:
    """Requests of a document that is no choice between a fixed number of answers."""
    return max(1, round(info.cost.passes)) if info.cost else 1


def model_seconds(job: EvalJob, done: Work, gpu: Gpu) -> float | None:
    """Seconds on a GPU from its datasheet: 2 FLOP per weight and token, and the weights read once per batch."""
    if job.size is None or not done.complete:
        return None
    compute = 2 * job.size.parameters * done.tokens / (EFFICIENCY * gpu.flops(job.dtype))
    weights = job.size.parameters * gpu_memory.width(job.dtype)
    passes = weights * done.requests / job.batch_size / (gpu.bandwidth * 1e9)
    return START + weights / READ + compute + passes


def correction(recorded: Iterable[Recorded], tasks: Mapping[str, TaskInfo], gpu: Gpu, table: Sequence[Gpu]) -> float:
    """How much longer jobs took on this GPU than the datasheet says: the median over what was recorded, else 1."""
    ratios = []
    for entry in recorded:
        if find_gpu(entry.gpu, table) == gpu and set(entry.job.tasks) <= set(tasks):
            expected = model_seconds(entry.job, work(entry.job, tasks), gpu)
            if expected:
                ratios.append(entry.seconds / expected)
    return median(ratios) if ratios else 1.0


def plan(
    values: Iterable[PublishedValue],
    tasks: Mapping[str, TaskInfo],
    gpu: Gpu,
    table: Sequence[Gpu],
    supported: Collection[str],
    recorded: Sequence[Recorded] = (),
) -> list[Planned]:
    """A row per job, in the order to run them: checkpoint after checkpoint, the longest first, what cannot run last.

    Jobs of one checkpoint stand together, so that its files are read while they are in the file system's cache; the
    longest first, so that several GPUs end at about the same time.
    """
    here = [entry for entry in recorded if find_gpu(entry.gpu, table) == gpu]
    factor = correction(here, tasks, gpu, table)
    rows = [_planned(job, count, tasks, gpu, supported, here, factor) for job, count in job_rows.jobs(values)]
    spent: dict[str, float] = {}
    for row in rows:
        spent[row.job.pretrained] = spent.get(row.job.pretrained, 0.0) + (row.seconds or 0.0)

    def order(row: Planned) -> tuple[bool, float, str, float, str]:
        name = row.job.pretrained
        return (row.status != "runs", -spent[name], name, -(row.seconds or 0.0), row.job.name)

    return sorted(rows, key=order)


def _planned(
    job: EvalJob,
    count: int,
    tasks: Mapping[str, TaskInfo],
    gpu: Gpu,
    supported: Collection[str],
    here: Sequence[Recorded],
    factor: float,
) -> Planned:
    same = [entry for entry in here if _same(entry.job, job)]
    done = work(job, tasks)
    status, reason = _status(job, tasks, gpu, supported)
    if same:
        seconds: float | None = same[-1].seconds
        because = "measured"
    else:
        estimated = model_seconds(job, done, gpu)
        seconds = None if estimated is None else estimated * factor
        because = "datasheet" if factor == 1.0 else f"datasheet x {factor:.2f}, from recorded runs"
    return Planned(
        job=job,
        values=count,
        work=done,
        need=gpu_memory.need(job, tasks),
        seconds=seconds,
        because=because if seconds is not None else "the size of the checkpoint or of a task is not known",
        status=status,
        reason=reason,
        peak=max((entry.peak for entry in same if entry.peak is not None), default=None),
    )


def _same(one: EvalJob, other: EvalJob) -> bool:
    """Whether two jobs compute the same; the GPUs that one was spread over do not count."""
    return all(
        getattr(one, name) == getattr(other, name)
        for name in ("name", "model", "revision", "tasks", "limit", "dtype", "batch_size", "max_length")
    )


def _status(job: EvalJob, tasks: Mapping[str, TaskInfo], gpu: Gpu, supported: Collection[str]) -> tuple[str, str]:
    if job.model not in supported:
        return "unsupported", f"no model class {job.model} is registered"
    if refused := placement.why_refused(job):
        return "remote code", refused
    fits = gpu_memory.fitted(job, tasks, [round(gpu.memory * 1e9)])
    return ("too large", fits) if isinstance(fits, str) else ("runs", "")


def basis(rows: Iterable[Planned]) -> str:
    """What the estimated times rest on."""
    found = [row.because for row in rows if row.seconds is not None and row.because != "measured"]
    corrected = next((because for because in found if because != "datasheet"), None)
    return corrected or f"datasheet, a job reaching {EFFICIENCY:.0%} of the GPU's peak: no run on it was recorded"


def plan_row(row: Planned) -> dict[str, Any]:
    """A planned job for tables, JSON and CSV; memory in GB."""
    return {
        **job_rows.job_row(row.job, row.values),
        "add_bos_token": dict(row.job.model_args).get("add_bos_token"),
        "documents": row.work.documents,
        "requests": row.work.requests,
        "tokens": row.work.tokens,
        "memory_gb": None if row.need is None else round(row.need.total / 1e9, 1),
        "memory_because": None if row.need is None else row.need.because,
        "measured_gb": None if row.peak is None else round(row.peak / 1e9, 1),
        "seconds": None if row.seconds is None else round(row.seconds),
        "seconds_because": row.because,
        "status": row.status,
        "reason": row.reason,
    }
