"""Compute how much GPU memory a job needs, and whether given GPUs have it.  Pure arithmetic.

A log-likelihood job needs most memory in a forward pass over the longest requests of its tasks.  Then it holds the
weights, the logits of all positions, and their log-softmax, which lm-eval computes over the whole batch at once
(`HFLM._loglikelihood_tokens`).  The activations of the layers are freed before the logits are made; for vocabularies
of 30,000 tokens and more they are smaller than the logits.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from scanproof.numbers.expected.tasks import Cost, TaskInfo
from scanproof.numbers.values import EvalJob

BYTES: tuple[tuple[str, int], ...] = (("float16", 2), ("bfloat16", 2), ("float32", 4), ("float64", 8))
RESERVE = 1 << 30
"""Bytes for CUDA's context, for the workspaces of matrix products, and for memory that the allocator cannot use."""
SPREADABLE = ("hf",)
"""Model classes that lm-eval can spread over several GPUs."""


@dataclass(frozen=True, kw_only=True)
class MemoryNeed:
    """Bytes that a job needs at its peak."""

    weights: int
    logits: int
    """Logits, their float32 copy if the model makes one, and their log-softmax."""
    reserve: int
    because: str
    """The arithmetic in words, for people."""

    @property
    def total(self) -> int:
        """Bytes on one GPU."""
        return self.weights + self.logits + self.reserve

    def on_each(self, gpus: int) -> int:
        """Bytes on the fullest of several GPUs: its share of the weights, and all logits, which one GPU computes."""
        return -(-self.weights // gpus) + self.logits + self.reserve


def bytes_per_number(dtype: str) -> int:
    """Bytes of one number of this dtype."""
    return dict(BYTES)[dtype]


def known_costs(job: EvalJob, tasks: Mapping[str, TaskInfo]) -> Iterator[tuple[TaskInfo, Cost]]:
    """The single tasks of a job whose cost is known, each with the cost of one document."""
    for name in job.tasks:
        for leaf in tasks[name].tasks or (name,):
            info = tasks[leaf]
            if info.cost is not None:
                yield info, info.cost


def longest_request(job: EvalJob, tasks: Mapping[str, TaskInfo]) -> int | None:
    """Tokens of the longest request with its few-shot examples, at most max_length; None when not known."""
    lengths = [cost.longest + job.num_fewshot * cost.tokens for _, cost in known_costs(job, tasks)]
    if not lengths:
        return job.max_length
    return min(max(lengths), job.max_length or max(lengths))


def compute_need(job: EvalJob, tasks: Mapping[str, TaskInfo]) -> MemoryNeed | None:
    """What the job needs at its peak; None where the size of its checkpoint or of its requests is not known."""
    length = longest_request(job, tasks)
    if job.size is None or length is None:
        return None
    size = bytes_per_number(job.dtype)
    weights = job.size.parameters * size
    # The log-softmax has the dtype of its input.
    per_logit = size + 4 + 4 if job.size.float32_logits and size < 4 else size + size
    logits = job.batch_size * length * job.size.vocab_size * per_logit
    because = (
        f"weights {in_gigabytes(weights)} ({job.size.parameters / 1e9:.3g}e9 x {size} bytes) "
        f"+ logits {in_gigabytes(logits)} (batch {job.batch_size} x {length} tokens "
        f"x vocabulary {job.size.vocab_size} x {per_logit} bytes) "
        f"+ reserve {in_gigabytes(RESERVE)}"
    )
    return MemoryNeed(weights=weights, logits=logits, reserve=RESERVE, because=because)


def fit_to_gpus(job: EvalJob, tasks: Mapping[str, TaskInfo], gpus: Sequence[int]) -> EvalJob | str:
    """Fit a job to GPUs; a job that is too large for one is spread over all of them.

    Args:
        job: the job.
        tasks: the known tasks by name.
        gpus: memory of each GPU in bytes; empty where it is not known, and then the job counts as fitting.

    Returns:
        The job itself, the job with `parallelize`, or the reason why it does not fit.
    """
    needed = compute_need(job, tasks)
    if needed is None or not gpus or needed.total <= gpus[0]:
        return job
    reason = f"needs {in_gigabytes(needed.total)} of GPU memory: {needed.because}; the GPU has {in_gigabytes(gpus[0])}"
    if len(gpus) == 1:
        return reason
    if job.model not in SPREADABLE:
        return f"{reason}, and the model class {job.model} runs on one GPU only"
    if needed.on_each(len(gpus)) > min(gpus):
        return f"{reason}, and on each of {len(gpus)} it would need {in_gigabytes(needed.on_each(len(gpus)))}"
    return replace(job, model_args=tuple(sorted({**dict(job.model_args), "parallelize": True}.items())))


def in_gigabytes(count: float) -> str:
    """Bytes as GB, in powers of ten like the name of a GPU."""
    return f"{count / 1e9:.3g} GB"
