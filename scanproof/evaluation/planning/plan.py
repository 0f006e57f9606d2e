"""Estimate requests, tokens, memory and time of jobs, and order them.  No model is loaded."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from scanproof.evaluation.planning import gpu_memory, job_rows, placement
from scanproof.files import parse_yaml
from scanproof.numbers.expected.tasks import TaskInfo
from scanproof.numbers.values import EvalJob, PublishedValue

GPUS = Path(__file__).with_name("gpus.yaml")
EFFICIENCY = 0.25
"""Assumed share of its peak FLOP/s that a GPU reaches, as long as no job was recorded on it."""
READ = 1e9
"""Assumed bytes per second from the disk to the GPU."""
START = 60.0
"""Assumed seconds that a worker needs to start, to read the tasks and to write its results."""
DECORATION = frozenset(["nvidia", "geforce", "tesla", "pcie", "sxm", "sxm4", "sxm5", "hbm2", "hbm2e", "hbm3", "hbm3e"])
"""Words that drivers add to the name of a GPU."""
SUPPORTED_ELSEWHERE = ("hf",)
"""Model classes of lm-eval itself that jobs use."""


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """The datasheet of a GPU."""

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
        """Peak FLOP/s in a dtype; for float64 that of float32, because the table has no column for it."""
        return 1e12 * (self.half if gpu_memory.bytes_per_number(dtype) == 2 else self.single)


@dataclass(frozen=True, kw_only=True)
class PastEvaluation:
    """A finished evaluation of an earlier session."""

    job: EvalJob
    gpu: str
    """Name that its driver gives it."""
    seconds: float
    peak: int | None
    """Largest allocation on the GPU, in bytes."""


@dataclass(frozen=True, kw_only=True)
class JobWork:
    """How much a job computes."""

    documents: int
    requests: int
    tokens: int
    complete: bool
    """Whether the costs of all its tasks are known."""


@dataclass(frozen=True, kw_only=True)
class PlannedJob:
    """A job with its estimated cost."""

    job: EvalJob
    values: int
    """How many numbers it measures."""
    work: JobWork
    need: gpu_memory.MemoryNeed | None
    seconds: float | None
    because: str
    """Where `seconds` comes from."""
    status: str
    """`runs`; or `unsupported`, `too large`, `remote code`."""
    reason: str
    """Why it does not run; empty when it runs."""
    peak: int | None
    """Largest allocation that was measured on a GPU of this name, in bytes."""


def read_gpus(path: Path = GPUS) -> tuple[Gpu, ...]:
    """Read the table of GPUs."""
    return tuple(Gpu(**row) for row in parse_yaml(path.read_text(encoding="utf-8")))


def find_gpu(name: str, table: Sequence[Gpu]) -> Gpu | None:
    """The GPU that people or its driver call `name`; None when the table has no such GPU or variant.

    `name` may omit the memory, as the driver's `NVIDIA H200` does, and other words.  Of several rows that fit, the one
    that shares most words with `name` is chosen, or else the first.
    """
    asked = set(name.lower().replace("-", " ").split())
    fitting: list[tuple[int, Gpu]] = []
    for gpu in table:
        words = set(gpu.name.lower().split())
        missing = {word for word in words - asked if not word.endswith("gb")}
        if asked and not asked - words - DECORATION and (not missing or asked <= words):
            fitting.append((len(words & asked), gpu))
    return max(fitting, key=lambda match: match[0])[1] if fitting else None


def count_work(job: EvalJob, tasks: Mapping[str, TaskInfo]) -> JobWork:
    """Documents, requests and tokens of a job; a `limit` applies to each task."""
    names = [leaf for name in job.tasks for leaf in tasks[name].tasks or (name,)]
    infos = [tasks[name] for name in names]
    documents = {info.name: min(info.documents or 0, job.limit or info.documents or 0) for info in infos}
    known = list(gpu_memory.known_costs(job, tasks))
    tokens = 0.0
    for info, cost in known:
        length = min(cost.tokens * (1 + job.num_fewshot), job.max_length or cost.tokens * (1 + job.num_fewshot))
        tokens += documents[info.name] * cost.passes * length
    requests = sum(documents[info.name] * (info.choices or requests_per_document(info)) for info in infos)
    return JobWork(
        documents=sum(documents.values()),
        requests=requests,
        tokens=round(tokens),
        complete=len(known) == len(infos),
    )


def requests_per_document(info: TaskInfo) -> int:
    """Requests of one document of a task that has no fixed number of choices; at least 1."""
    return max(1, round(info.cost.passes)) if info.cost else 1


def estimate_seconds(job: EvalJob, done: JobWork, gpu: Gpu) -> float | None:
    """Seconds on a GPU, estimated from its datasheet; None where the job's size or work is not known.

    A job computes 2 FLOP per weight and token, and reads all weights once per batch.
    """
    if job.size is None or not done.complete:
        return None
    compute = 2 * job.size.parameters * done.tokens / (EFFICIENCY * gpu.flops(job.dtype))
    weights = job.size.parameters * gpu_memory.bytes_per_number(job.dtype)
    passes = weights * done.requests / job.batch_size / (gpu.bandwidth * 1e9)
    return START + weights / READ + compute + passes


def measure_correction(
    recorded: Iterable[PastEvaluation], tasks: Mapping[str, TaskInfo], gpu: Gpu, table: Sequence[Gpu]
) -> float:
    """How many times longer past jobs took on this GPU than estimated: their median, or 1 without past jobs."""
    ratios = []
    for entry in recorded:
        if find_gpu(entry.gpu, table) == gpu and set(entry.job.tasks) <= set(tasks):
            expected = estimate_seconds(entry.job, count_work(entry.job, tasks), gpu)
            if expected:
                ratios.append(entry.seconds / expected)
    return median(ratios) if ratios else 1.0


def plan_jobs(
    values: Iterable[PublishedValue],
    tasks: Mapping[str, TaskInfo],
    gpu: Gpu,
    table: Sequence[Gpu],
    supported: Collection[str],
    recorded: Sequence[PastEvaluation] = (),
) -> list[PlannedJob]:
    """One row per job, in the order in which to run them; jobs that cannot run come last.

    The jobs of one checkpoint follow each other, because its files are then still in the file system's cache.  The
    checkpoint with the longest total time comes first, so that several GPUs end at about the same time.
    """
    here = [entry for entry in recorded if find_gpu(entry.gpu, table) == gpu]
    factor = measure_correction(here, tasks, gpu, table)
    rows = [_plan_job(job, count, tasks, gpu, supported, here, factor) for job, count in job_rows.jobs(values)]
    spent: dict[str, float] = {}
    for row in rows:
        spent[row.job.pretrained] = spent.get(row.job.pretrained, 0.0) + (row.seconds or 0.0)

    def order(row: PlannedJob) -> tuple[bool, float, str, float, str]:
        name = row.job.pretrained
        return (row.status != "runs", -spent[name], name, -(row.seconds or 0.0), row.job.name)

    return sorted(rows, key=order)


def _plan_job(
    job: EvalJob,
    count: int,
    tasks: Mapping[str, TaskInfo],
    gpu: Gpu,
    supported: Collection[str],
    here: Sequence[PastEvaluation],
    factor: float,
) -> PlannedJob:
    same = [entry for entry in here if _computes_the_same(entry.job, job)]
    done = count_work(job, tasks)
    status, reason = _status(job, tasks, gpu, supported)
    if same:
        seconds: float | None = same[-1].seconds
        because = "measured"
    else:
        estimated = estimate_seconds(job, done, gpu)
        seconds = None if estimated is None else estimated * factor
        because = "datasheet" if factor == 1.0 else f"datasheet x {factor:.2f}, from recorded runs"
    return PlannedJob(
        job=job,
        values=count,
        work=done,
        need=gpu_memory.compute_need(job, tasks),
        seconds=seconds,
        because=because if seconds is not None else "the size of the checkpoint or of a task is not known",
        status=status,
        reason=reason,
        peak=max((entry.peak for entry in same if entry.peak is not None), default=None),
    )


def _computes_the_same(one: EvalJob, other: EvalJob) -> bool:
    """Whether two jobs compute the same; it does not matter over how many GPUs each is spread."""
    return all(
        getattr(one, name) == getattr(other, name)
        for name in ("name", "model", "revision", "tasks", "limit", "dtype", "batch_size", "max_length")
    )


def _status(job: EvalJob, tasks: Mapping[str, TaskInfo], gpu: Gpu, supported: Collection[str]) -> tuple[str, str]:
    """Status and reason of a planned job."""
    if job.model not in supported:
        return "unsupported", f"no model class {job.model} is registered"
    if reason := placement.why_refused(job):
        return "remote code", reason
    fitted = gpu_memory.fit_to_gpus(job, tasks, [round(gpu.memory * 1e9)])
    return ("too large", fitted) if isinstance(fitted, str) else ("runs", "")


def explain_estimates(rows: Iterable[PlannedJob]) -> str:
    """How the estimated times were computed, in words."""
    reasons = [row.because for row in rows if row.seconds is not None and row.because != "measured"]
    corrected = next((because for because in reasons if because != "datasheet"), None)
    return corrected or f"datasheet, a job reaching {EFFICIENCY:.0%} of the GPU's peak: no run on it was recorded"


def plan_row(row: PlannedJob) -> dict[str, Any]:
    """A planned job as a row for tables, JSON and CSV; memory in GB."""
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
