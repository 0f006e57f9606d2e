"""How much memory a job needs, and on which GPUs it fits."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scanproof.evaluation.planning import gpu_memory
from scanproof.numbers.expected.reader import Expected, load
from scanproof.numbers.values import EvalJob, Size
from tests.support.gpu_jobs import GB, JOB, TASKS


@pytest.fixture(scope="module")
def published() -> Expected:
    return load(Path(__file__).parents[2] / "expected")


def total(job: EvalJob) -> int:
    needed = gpu_memory.compute_need(job, TASKS)
    assert needed is not None
    return needed.total


def test_the_sum_is_weights_logits_and_reserve() -> None:
    """3e9 weights of 2 bytes; 10 x 100 positions x 50,000 logits, twice 2 bytes each."""
    assert total(JOB) == 6 * GB + 200_000_000 + 2**30
    needed = gpu_memory.compute_need(JOB, TASKS)
    assert needed is not None
    assert needed.because == (
        "weights 6 GB (3e9 x 2 bytes) + logits 0.2 GB (batch 10 x 100 tokens x vocabulary 50000 x 4 bytes) "
        "+ reserve 1.07 GB"
    )


def test_logits_in_float32_are_a_copy_more() -> None:
    """Logits in half precision, their float32 copy, and its log-softmax: 10 bytes per logit in place of 4."""
    upcast = replace(JOB, size=Size(parameters=3 * GB, vocab_size=50_000, float32_logits=True))
    assert total(upcast) - total(JOB) == 10 * 100 * 50_000 * 6
    assert total(replace(upcast, dtype="float32")) == total(replace(JOB, dtype="float32")), "float32 is not copied"


def test_the_longest_task_counts_with_its_examples_and_is_cut_at_max_length() -> None:
    assert gpu_memory.longest_request(replace(JOB, tasks=("long", "short")), TASKS) == 1000
    assert gpu_memory.longest_request(replace(JOB, num_fewshot=5), TASKS) == 200
    assert gpu_memory.longest_request(replace(JOB, tasks=("long",), num_fewshot=5), TASKS) == 1024


def test_what_is_not_said_is_not_made_up() -> None:
    assert gpu_memory.compute_need(replace(JOB, size=None), TASKS) is None
    assert gpu_memory.fit_to_gpus(replace(JOB, size=None), TASKS, [1]) == replace(JOB, size=None)


class TestFitted:
    def test_on_one_gpu(self) -> None:
        assert gpu_memory.fit_to_gpus(JOB, TASKS, [total(JOB)]) is JOB

    def test_a_byte_too_small_says_the_arithmetic(self) -> None:
        told = gpu_memory.fit_to_gpus(JOB, TASKS, [total(JOB) - 1])
        assert isinstance(told, str)
        assert told.startswith("needs 7.27 GB of GPU memory: weights 6 GB (3e9 x 2 bytes) + logits 0.2 GB (batch 10 x")
        assert told.endswith("; the GPU has 7.27 GB")

    def test_over_two_gpus(self) -> None:
        spread = gpu_memory.fit_to_gpus(JOB, TASKS, [5 * GB, 5 * GB])
        assert spread == replace(JOB, model_args=(("parallelize", True),))

    def test_two_gpus_that_are_too_small_as_well(self) -> None:
        told = gpu_memory.fit_to_gpus(JOB, TASKS, [4 * GB, 4 * GB])
        assert isinstance(told, str)
        assert told.endswith("and on each of 2 it would need 4.27 GB")

    def test_a_class_that_cannot_be_spread(self) -> None:
        told = gpu_memory.fit_to_gpus(replace(JOB, model="mamba_ssm"), TASKS, [5 * GB, 5 * GB])
        assert isinstance(told, str)
        assert told.endswith("the model class mamba_ssm runs on one GPU only")

    @given(st.integers(1, 8), st.integers(GB, 20 * GB))
    def test_more_or_larger_gpus_never_make_it_worse(self, count: int, each: int) -> None:
        def runs(gpus: list[int]) -> bool:
            return not isinstance(gpu_memory.fit_to_gpus(JOB, TASKS, gpus), str)

        if runs([each] * count):
            assert runs([each] * (count + 1))
            assert runs([each + GB] * count)


def test_every_published_job_says_what_its_memory_is_computed_from(published: Expected) -> None:
    for value in published.values:
        if value.job.suite == "gpu":
            assert gpu_memory.compute_need(value.job, published.tasks) is not None, value.job.name
            assert value.job.max_length is not None, value.job.name
            assert "add_bos_token" in dict(value.job.model_args), value.job.name


def test_the_jobs_of_document_001_fit_on_the_gpu_that_it_names(published: Expected) -> None:
    """The jobs ran on an NVIDIA GeForce RTX 4090 with 24 GB, so the arithmetic must allow them there."""
    for value in published.values:
        if value.document == "001":
            assert gpu_memory.fit_to_gpus(value.job, published.tasks, [24_564 * 1024**2]) == value.job
