"""Which GPUs are visible, and how a job is spread over several of them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from scanproof.errors import EvaluationError
from scanproof.evaluation.planning import placement
from tests.support.gpu_jobs import JOB, TASKS


@pytest.fixture
def driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two GPUs of 4 and 6 GiB, as the driver's tool prints them."""
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho 'NVIDIA Small, 550.54, 4096'\necho 'NVIDIA Large, 550.54, 6144'\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


@pytest.mark.usefixtures("driver")
@pytest.mark.parametrize(
    ("chosen", "mebibytes"), [(None, [4096, 6144]), ("1,0", [6144, 4096]), ("1", [6144]), ("", [])]
)
def test_gpus_are_those_that_cuda_shows(
    monkeypatch: pytest.MonkeyPatch, chosen: str | None, mebibytes: list[int]
) -> None:
    if chosen is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", chosen)
    assert placement.visible_memory() == [size * 1024**2 for size in mebibytes]


@pytest.mark.usefixtures("driver")
def test_a_job_too_large_for_one_is_spread_over_both() -> None:
    small = replace(JOB, batch_size=1)
    assert dict(placement.place(small, TASKS).model_args) == {"parallelize": True}


@pytest.mark.usefixtures("driver")
def test_a_job_too_large_for_both_is_missing_a_gpu() -> None:
    large = replace(JOB, dtype="float32")
    with pytest.raises(EvaluationError, match=r"900-model-0shot: needs 13.5 GB .* on each of 2 it would need") as error:
        placement.place(large, TASKS)
    assert error.value.kind == "missing"


def test_jobs_on_the_cpu_are_left_alone() -> None:
    job = replace(JOB, device="cpu")
    assert placement.place(job, TASKS) is job


def test_remote_code_needs_a_reason() -> None:
    job = replace(JOB, device="cpu", needs_remote_code=True)
    with pytest.raises(EvaluationError, match="org/model cannot be loaded without Python files"):
        placement.place(job, TASKS)
    allowed = replace(job, trust_remote_code="read at commit abc")
    assert placement.place(allowed, TASKS) is allowed
