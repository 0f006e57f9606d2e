"""A job on a GPU and the costs of its tasks, small enough to compute by hand."""

from __future__ import annotations

from scanproof.numbers.expected.tasks import Cost, TaskInfo
from scanproof.numbers.values import EvalJob, Size

GB = 10**9
TASKS = {
    name: TaskInfo(
        name=name,
        documents=100,
        metrics=("acc",),
        choices=4,
        dataset="a/b",
        config=None,
        cost=Cost(tokens=tokens, longest=longest, passes=4),
    )
    for name, tokens, longest in (("short", 20, 100), ("long", 200, 1000))
}
JOB = EvalJob(
    name="900-model-0shot",
    model="hf",
    pretrained="org/model",
    revision="main",
    dtype="float16",
    device="cuda",
    tasks=("short",),
    num_fewshot=0,
    batch_size=10,
    max_length=1024,
    size=Size(parameters=3 * GB, vocab_size=50_000),
)
