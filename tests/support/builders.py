"""Published numbers and answers for tests, with everything that does not matter filled in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from scanproof.numbers.values import EvalJob, PublishedValue
from scanproof.numbers.verdict.answers import TaskSamples
from scanproof.numbers.verdict.tolerance import Constants

CONSTANTS = Constants(
    false_alarm_rate=0.01,
    checks=1000,
    power=0.8,
    flip_rate_same=0.01,
    flip_rate_other=0.03,
    perplexity_sd=0.002,
    perplexity_documents=5153,
)

JOB = EvalJob(
    name="001-mamba-130m-0shot",
    model="mamba_ssm",
    pretrained="state-spaces/mamba-130m",
    revision="main",
    dtype="float16",
    device="cuda",
    tasks=("piqa",),
    num_fewshot=0,
    batch_size=64,
)

VALUE = PublishedValue(
    document="001",
    line=47,
    file="001/mamba-130m.yaml",
    file_line=12,
    model="state-spaces/mamba-130m",
    hub_id="state-spaces/mamba-130m",
    job=JOB,
    task="piqa",
    metric="acc",
    origin="reproduced",
    printed="0.6453",
    unit="fraction",
    documents=1838,
)


def published(**changes: Any) -> PublishedValue:
    """`VALUE` with other fields; `job` and `num_fewshot` change its job."""
    job = changes.pop("job", JOB)
    shots = changes.pop("num_fewshot", job.num_fewshot)
    return replace(VALUE, job=replace(job, num_fewshot=shots), **changes)


def answered(*answers: Sequence[float], **kept: object) -> TaskSamples:
    """A task whose documents got these log-likelihoods."""
    return TaskSamples(
        job="job", task="task", doc_ids=tuple(range(len(answers))), documents_hash="d", prompts_hash="p",
        targets=(None,) * len(answers), loglikelihoods=tuple(tuple(each) for each in answers), metrics={},
        **kept,  # type: ignore[arg-type]
    )  # fmt: skip
