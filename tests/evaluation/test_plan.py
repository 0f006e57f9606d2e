"""The plan of a night: every number has a job that can run, and recorded runs correct the estimates."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from scanproof import models, record
from scanproof.evaluation.planning import plan
from scanproof.numbers.expected.reader import Expected, load
from scanproof.numbers.values import EvalJob, Size
from scanproof.record import Evaluation, Run

ROOT = Path(__file__).parents[2]
TABLE = plan.read_gpus()
SUPPORTED = {name for name, _ in models.CLASSES} | {"hf"}
H100 = plan.find_gpu("H100 80GB", TABLE)


@pytest.fixture(scope="module")
def published() -> Expected:
    return load(ROOT / "expected")


def planned(published: Expected, **changes: Any) -> list[plan.PlannedJob]:
    values = [value for value in published.values if value.job.suite == "gpu"]
    assert H100 is not None
    given: dict[str, Any] = {"gpu": H100, "supported": SUPPORTED, "recorded": ()} | changes
    return plan.plan_jobs(values, published.tasks, given["gpu"], TABLE, given["supported"], given["recorded"])


def one(rows: list[plan.PlannedJob], name: str) -> plan.PlannedJob:
    (found,) = [row for row in rows if row.job.name == name]
    return found


def test_each_of_the_385_numbers_has_a_job_and_none_is_unsupported(published: Expected) -> None:
    rows = planned(published)
    assert sum(row.values for row in rows) == 385
    assert len({row.job.name for row in rows}) == len(rows)
    assert [row.job.name for row in rows if row.status == "unsupported"] == []
    assert {row.job.name.partition("-")[2] for row in rows if row.status != "runs"} == {
        "v5-eagle-7b-hf-0shot",
        "v5-eagle-7b-hf-5shot",
    }


def test_a_class_that_nobody_registers_is_unsupported(published: Expected) -> None:
    row = one(planned(published, supported={"hf"}), "001-mamba-130m-0shot")
    assert (row.status, row.reason) == ("unsupported", "no model class mamba_ssm is registered")


def test_jobs_of_one_checkpoint_stand_together_the_longest_first(published: Expected) -> None:
    rows = [row for row in planned(published) if row.status == "runs"]
    names = [row.job.pretrained for row in rows]
    assert len({name for index, name in enumerate(names) if index == 0 or names[index - 1] != name}) == len(set(names))
    assert [name for index, name in enumerate(names) if name in names[:index] and names[index - 1] != name] == []
    spent = [sum(row.seconds or 0 for row in rows if row.job.pretrained == name) for name in dict.fromkeys(names)]
    assert spent == sorted(spent, reverse=True)


def test_requests_are_counted_per_answer_and_tokens_per_pass(published: Expected) -> None:
    """HellaSwag: four passes of 95 tokens per document.  MMLU, 5 shots: one pass of six questions for four letters."""
    job = replace(one(planned(published), "001-mamba-130m-0shot").job, tasks=("hellaswag",))
    work = plan.count_work(job, published.tasks)
    assert (work.documents, work.requests, work.tokens) == (10_042, 40_168, 10_042 * 4 * 95)
    few = plan.count_work(replace(job, tasks=("mmlu_anatomy",), num_fewshot=5), published.tasks)
    assert (few.requests, few.tokens) == (540, 135 * 80 * 6)
    assert plan.count_work(replace(job, limit=10), published.tasks).requests == 40


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ("H100 80GB", "H100 80GB"),
        ("h100", "H100 80GB"),
        ("NVIDIA H100 80GB HBM3", "H100 80GB"),
        ("NVIDIA H100 PCIe 80GB", "H100 PCIe 80GB"),
        ("NVIDIA A100-SXM4-40GB", "A100 40GB"),
        ("RTX 4090", "RTX 4090 24GB"),
        ("4090", "RTX 4090 24GB"),
        # Names that nvidia-smi prints.
        ("NVIDIA H200", "H200 141GB"),
        ("NVIDIA H100 PCIe", "H100 PCIe 80GB"),
        ("NVIDIA A100-PCIE-40GB", "A100 40GB"),
        ("NVIDIA A100 80GB PCIe", "A100 80GB"),
        ("NVIDIA A40", "A40 48GB"),
        ("NVIDIA L4", "L4 24GB"),
        ("NVIDIA L40S", "L40S 48GB"),
        ("NVIDIA GeForce RTX 4090", "RTX 4090 24GB"),
        # Variants with other datasheets.
        ("NVIDIA H100 NVL", None),
        ("NVIDIA A10G", None),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", None),
        ("A100 24GB", None),
        ("RTX 9999", None),
        ("", None),
    ],
)
def test_gpus_are_found_by_the_names_people_and_drivers_use(asked: str, found: str | None) -> None:
    gpu = plan.find_gpu(asked, TABLE)
    assert (gpu.name if gpu else None) == found


def test_a_job_that_does_not_fit_says_the_arithmetic(published: Expected) -> None:
    gpu = plan.find_gpu("RTX 4090", TABLE)
    row = one(planned(published, gpu=gpu), "003-mamba-7b-rw-0shot")
    assert row.status == "too large"
    assert "weights 28.6 GB (7.15e9 x 4 bytes)" in row.reason
    assert row.reason.endswith("the GPU has 24 GB")


class TestRecordedRuns:
    def entry(self, row: plan.PlannedJob, factor: float) -> plan.PastEvaluation:
        assert row.seconds is not None
        return plan.PastEvaluation(
            job=row.job, gpu="NVIDIA H100 80GB HBM3", seconds=factor * row.seconds, peak=5 * 10**9
        )

    def test_a_recorded_job_takes_what_it_took_and_moves_the_others(self, published: Expected) -> None:
        before = planned(published)
        first = one(before, "001-mamba-130m-0shot")
        after = planned(published, recorded=[self.entry(first, 3)])
        assert first.seconds is not None
        measured = one(after, first.job.name)
        assert (measured.seconds, measured.because, measured.peak) == (3 * first.seconds, "measured", 5 * 10**9)
        other = one(after, "001-mamba-370m-0shot")
        assert other.seconds == pytest.approx(3 * (one(before, other.job.name).seconds or 0))
        assert other.because == "datasheet x 3.00, from recorded runs"

    def test_another_gpu_changes_nothing(self, published: Expected) -> None:
        before = planned(published)
        entry = replace(self.entry(before[0], 3), gpu="NVIDIA A100-SXM4-40GB")
        assert planned(published, recorded=[entry]) == before

    def test_the_command_reads_them_from_the_store(self, tmp_path: Path, published: Expected) -> None:
        job = one(planned(published), "001-mamba-130m-0shot").job
        evaluation = Evaluation(
            job=job,
            key="k" * 64,
            measurements=(),
            samples="",
            command="",
            seconds=777.0,
            environment={"device_name": "NVIDIA H100 80GB HBM3", "peak_device_memory_bytes": 90_000_000_000},
        )
        run = Run(
            id="20261121T000000Z-1",
            started="2026-11-21T00:00:00+00:00",
            finished=None,
            strict=False,
            limit=None,
            environment={},
            records=(),
            evaluations=(evaluation,),
        )
        record.write_run(tmp_path / "runs", run)
        (tmp_path / "runs/20261121T000001Z-2").mkdir()
        (tmp_path / "runs/20261121T000001Z-2/run.json").write_text("{")
        done = command("--gpu", "H100 80GB", "--store", str(tmp_path), "--format", "json", "--model", "mamba-130m")
        (row,) = json.loads(done.stdout)
        assert (row["seconds"], row["seconds_because"], row["measured_gb"]) == (777, "measured", 90.0)
        assert "not used for the estimates" in done.stderr
        table = command("--gpu", "H100 80GB", "--store", str(tmp_path), "--model", "mamba-130m").stdout
        assert "times: 1 measured, 0 estimated" in table
        assert f"{job.name}: took 90 GB, more than the computed weights 0.258 GB" in table


def command(*words: str, expect: int = 0) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-m", "scanproof", "plan", *words], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == expect, done.stderr
    assert "Traceback" not in done.stderr
    return done


def test_the_command_prints_every_job_in_full() -> None:
    rows = json.loads(command("--gpu", "H100 80GB", "--format", "json").stdout)
    assert sum(row["values"] for row in rows) == 385
    for row in rows:
        needed = (
            "model_class pretrained revision dtype num_fewshot add_bos_token max_length batch_size memory_gb seconds"
        )
        assert [name for name in needed.split() if row[name] is None] == []


def test_the_table_ends_with_the_sum_and_with_what_cannot_run(published: Expected) -> None:
    numbers = sum(value.document == "003" for value in published.values)
    told = command("--gpu", "RTX 4090", "--document", "003").stdout
    assert f"jobs measure {numbers} numbers; " in told
    assert "a job reaching 25% of the GPU's peak: no run on it was recorded" in told
    assert "003-mamba-7b-rw-0shot: too large: needs 31.4 GB of GPU memory: weights 28.6 GB" in told
    assert "003-v5-eagle-7b-hf-0shot: remote code: RWKV/v5-Eagle-7B-HF cannot be loaded without Python files" in told


def test_a_gpu_that_nobody_knows_is_named_with_those_that_are() -> None:
    told = command("--gpu", "RTX 9999", expect=2).stderr
    assert "nothing is known of 'RTX 9999'" in told
    assert "H100 80GB" in told


def test_a_job_of_unknown_size_has_no_time(published: Expected) -> None:
    value = replace(published.values[0], job=replace(published.values[0].job, size=None))
    assert H100 is not None
    (row,) = plan.plan_jobs([value], published.tasks, H100, TABLE, SUPPORTED | {value.job.model})
    assert (row.seconds, row.need) == (None, None)
    assert row.because == "the size of the checkpoint or of a task is not known"


def test_planning_loads_no_torch() -> None:
    code = (
        "import sys, scanproof.cli.plan as p; p.plan(gpu='H100');"
        "print({'torch', 'lm_eval', 'transformers'} & set(sys.modules), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "set()"


def test_a_larger_model_takes_longer(published: Expected) -> None:
    job: EvalJob = one(planned(published), "001-mamba-130m-0shot").job
    assert H100 is not None
    done = plan.count_work(job, published.tasks)
    larger = replace(job, size=Size(parameters=10**10, vocab_size=50_280))
    assert (plan.estimate_seconds(larger, done, H100) or 0) > (plan.estimate_seconds(job, done, H100) or 0)
