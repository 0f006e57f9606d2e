"""How much memory of a GPU a job needs, and whether this machine has it.  Pure arithmetic.

The peak of a log-likelihood job is one forward pass over the longest requests of its tasks: the weights, the logits
of all positions, and their log-softmax, which lm-eval takes over the whole batch at once
(`HFLM._loglikelihood_tokens`).  What the layers hold meanwhile is freed before the logits are made and is smaller for
vocabularies of 30,000 and more.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from scanproof.numbers.expected.tasks import Cost, TaskInfo
from scanproof.numbers.values import EvalJob

BYTES: tuple[tuple[str, int], ...] = (("float16", 2), ("bfloat16", 2), ("float32", 4), ("float64", 8))
RESERVE = 1 << 30
"""CUDA's context, the workspaces of the matrix products and what the allocator cannot use, in bytes."""
SPREADABLE = ("hf",)
"""Model classes that lm-eval can lay over several GPUs."""


@dataclass(frozen=True, kw_only=True)
class Need:
    """Bytes that a job needs at its peak."""

    weights: int
    logits: int
    """Logits, their copy in float32 where the model makes one, and their log-softmax."""
    reserve: int
    because: str
    """The arithmetic, for people."""

    @property
    def total(self) -> int:
        """On one GPU."""
        return self.weights + self.logits + self.reserve

    def on_each(self, gpus: int) -> int:
        """On the fullest of several GPUs: its share of the weights, and all logits, which one of them computes."""
        return -(-self.weights // gpus) + self.logits + self.reserve


def width(dtype: str) -> int:
    """Bytes of one number."""
    return dict(BYTES)[dtype]


def costs(job: EvalJob, tasks: Mapping[str, TaskInfo]) -> Iterator[tuple[TaskInfo, Cost]]:
    """The single tasks of a job, each with the cost of a document; those whose cost is not known are left out."""
    for name in job.tasks:
        for leaf in tasks[name].tasks or (name,):
            info = tasks[leaf]
            if info.cost is not None:
                yield info, info.cost


def longest(job: EvalJob, tasks: Mapping[str, TaskInfo]) -> int | None:
    """Tokens of the longest request, examples in the prompt included, cut at max_length; None when not known."""
    lengths = [cost.longest + job.num_fewshot * cost.tokens for _, cost in costs(job, tasks)]
    if not lengths:
        return job.max_length
    return min(max(lengths), job.max_length or max(lengths))


def need(job: EvalJob, tasks: Mapping[str, TaskInfo]) -> Need | None:
    """What the job needs at its peak; None where the size of its checkpoint or its requests is not said."""
    length = longest(job, tasks)
    if job.size is None or length is None:
        return None
    each = width(job.dtype)
    weights = job.size.parameters * each
    # The model's own logits, and the log-softmax in the dtype of what it is given.
    per_logit = each + 4 + 4 if job.size.float32_logits and each < 4 else each + each
    logits = job.batch_size * length * job.size.vocab_size * per_logit
    because = (
        f"weights {gb(weights)} ({job.size.parameters / 1e9:.3g}e9 x {each} bytes) + logits {gb(logits)} "
        f"(batch {job.batch_size} x {length} tokens x vocabulary {job.size.vocab_size} x {per_logit} bytes) "
        f"+ reserve {gb(RESERVE)}"
    )
    return Need(weights=weights, logits=logits, reserve=RESERVE, because=because)


def fitted(job: EvalJob, tasks: Mapping[str, TaskInfo], gpus: Sequence[int]) -> EvalJob | str:
    """The job as it fits on GPUs of these bytes each, spread over all of them where one is too small.

    Returns:
        The job itself, the job with `parallelize`, or why it does not fit.
    """
    needed = need(job, tasks)
    if needed is None or not gpus or needed.total <= gpus[0]:
        return job
    told = f"needs {gb(needed.total)} of GPU memory: {needed.because}; the GPU has {gb(gpus[0])}"
    if len(gpus) == 1:
        return told
    if job.model not in SPREADABLE:
        return f"{told}, and the model class {job.model} runs on one GPU only"
    if needed.on_each(len(gpus)) > min(gpus):
        return f"{told}, and on each of {len(gpus)} it would need {gb(needed.on_each(len(gpus)))}"
    return replace(job, model_args=tuple(sorted({**dict(job.model_args), "parallelize": True}.items())))


def gb(count: float) -> str:
    """Bytes as people read them on a GPU's box: powers of ten."""
    return f"{count / 1e9:.3g} GB"
