"""Baseline files are read and written as a whole, and baselines of another device are refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from scanproof.kernels.latency import baseline_files
from scanproof.kernels.latency.baseline_files import BaselineError, BaselineFile
from scanproof.kernels.latency.latency_verdict import Chosen, Clock, Latency, Timing
from scanproof.kernels.launches.launched import AutotunerChoice
from scanproof.numbers.expected import reader

SHIPPED = Path(__file__).parents[2] / "expected"
CONTENT: dict[str, Any] = {
    "schema_version": 1,
    "device": {"kind": "cuda", "name": "NVIDIA H200", "driver": "570.1"},
    "recorded": "2026-11-21T09:00:00+00:00",
    "command": "pytest -m gpu --scanproof-record-latency",
    "packages": {"torch": "2.13.0", "triton": None},
    "limits": {"bytes_per_s": 4e12, "flop_per_s": {"bfloat16": 7e14}},
    "cases": {"rms_norm_fn-a-bfloat16-forward": {"seconds": [1.0, 1.1, 1.2, 1.3, 1.4], "clock_mhz": 1980.0}},
}


def file(tmp_path: Path, name: str = "nvidia-h200.json", **changes: Any) -> Path:
    path = tmp_path / name
    path.write_text(json.dumps({**CONTENT, **changes}))
    return path


def test_a_case_is_read_with_its_source(tmp_path: Path) -> None:
    path = file(tmp_path)
    found = baseline_files.read_for_device(path, "cuda", "NVIDIA H200")
    assert found is not None
    one = found.baseline("rms_norm_fn-a-bfloat16-forward", path)
    assert one is not None
    assert one.seconds == (1.0, 1.1, 1.2, 1.3, 1.4)
    assert one.source == f"{path}, recorded 2026-11-21 with driver 570.1, torch 2.13.0"
    assert found.baseline("another", path) is None


def test_a_device_without_a_file_has_no_baseline(tmp_path: Path) -> None:
    assert baseline_files.read_for_device(tmp_path / "nvidia-h200.json", "cuda", "NVIDIA H200") is None


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"schema_version": 2}, "schema_version: "),
        ({"device": {"kind": "tpu", "name": "x"}}, "device.kind: "),
        ({"extra": 1}, "extra: "),
        ({"limits": {"bytes_per_s": 0, "flop_per_s": {}}}, "limits.bytes_per_s: "),
        ({"cases": {"a": {"seconds": [1.0, 1.0, 1.0, 1.0]}}}, "cases.a.seconds: "),
        ({"cases": {"a": {"seconds": [1.0, 1.0, 1.0, 1.0, 0.0]}}}, "cases.a.seconds.4: "),
        ({"cases": {"a": {"seconds": [1.0, 1.0, 1.0, 1.0, "fast"]}}}, "cases.a.seconds.4: "),
    ],
)
def test_a_mistake_is_named_with_file_and_key(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    path = file(tmp_path, **changes)
    with pytest.raises(BaselineError) as caught:
        baseline_files.read(path)
    assert str(caught.value).startswith(f"{path}: not a file of latency baselines: {said}")
    assert baseline_files.check_folder(tmp_path) == [str(caught.value)]


def test_repeats_too_far_apart_are_refused_and_never_written(tmp_path: Path) -> None:
    """One slow repeat makes any change look like noise."""
    apart = {"a": {"seconds": [1.0, 1.0, 1.0, 1.0, 9.9]}, "b": {"seconds": [0.05, 0.05, 0.05, 0.05, 20.0]}}
    path = file(tmp_path, cases=apart)
    why = "the slowest repeat takes 400 times as long as the fastest, and repeats of one kernel at most 10 times"
    with pytest.raises(BaselineError) as caught:
        baseline_files.read(path)
    assert str(caught.value) == (
        f"{path}: not a file of latency baselines: cases.b.seconds: {why}; "
        "remove the file and record its baselines again: --scanproof-record-latency"
    )
    assert baseline_files.check_folder(tmp_path) == [str(caught.value)]
    path.unlink()
    measured = [latency("b", n, 20.0 if n == 4 else 0.05) for n in range(5)]
    content = BaselineFile.model_validate({**CONTENT, "cases": {}}).model_copy(
        update={"cases": baseline_files.collect_repeats(measured)}
    )
    with pytest.raises(BaselineError, match=f"^cases.b.seconds: {why}: record again on a quiet device$"):
        baseline_files.write(path, content)
    assert not path.exists()


@pytest.mark.parametrize(("kind", "name"), [("cpu", "NVIDIA H200"), ("cuda", "NVIDIA A100")])
def test_one_device_is_never_compared_with_another(tmp_path: Path, kind: str, name: str) -> None:
    with pytest.raises(BaselineError, match=r"device: is NVIDIA H200 \(cuda\), but this is"):
        baseline_files.read_for_device(file(tmp_path), kind, name)


def test_a_cpu_baseline_is_refused_in_the_folder_of_gpus(tmp_path: Path) -> None:
    path = file(tmp_path, "cpu.json", device={"kind": "cpu", "name": "x86_64"})
    assert baseline_files.check_folder(tmp_path) == [
        f"{path}: device.kind: is cpu; only GPUs have baselines here: remove the file"
    ]


def test_a_file_has_the_name_of_its_gpu(tmp_path: Path) -> None:
    path = file(tmp_path, "other.json")
    assert baseline_files.check_folder(tmp_path) == [
        f"{path}: device.name: is NVIDIA H200; rename the file to nvidia-h200.json"
    ]
    assert baseline_files.check_folder(tmp_path / "none") == []


@pytest.mark.parametrize(
    ("device", "name"),
    [
        ("NVIDIA H200", "nvidia-h200.json"),
        ("NVIDIA A100-SXM4-80GB", "nvidia-a100-sxm4-80gb.json"),
        ("/x y", "x-y.json"),
    ],
)
def test_the_file_is_named_after_the_device(device: str, name: str) -> None:
    assert baseline_files.file_name(device) == name


def test_baselines_do_not_disturb_the_published_numbers(tmp_path: Path) -> None:
    import shutil

    copy = tmp_path / "expected"
    shutil.copytree(SHIPPED, copy)
    (copy / "latency").mkdir(exist_ok=True)
    file(copy / "latency")
    assert len(reader.load(copy).values) == len(reader.load(SHIPPED).values)


def test_what_is_shipped_can_be_used() -> None:
    assert baseline_files.check_folder(SHIPPED / baseline_files.FOLDER) == []


def latency(case: str, repeat: int, median: float | None, mhz: float | None = None) -> Latency:
    timing = median and Timing(
        median=median, q1=median, q3=median, rounds=10, calls=1, noise=0.0, stopped="noise", warmup_rounds=2
    )
    clock = mhz and Clock(lowest_mhz=mhz, highest_mhz=2000.0, median_mhz=mhz + 50)
    return Latency(
        id=case, nodeid=f"{case}-{repeat}", op="o", direction="forward", kind="cuda", device="NVIDIA H200",
        repeat=repeat, timing=timing or None, clock=clock or None,
    )  # fmt: skip


def test_repeats_are_grouped_by_case_and_unmeasured_ones_are_left_out() -> None:
    found = [latency("a", n, 1.0 + n, 1900.0 + n) for n in range(5)] + [latency("b", 1, None)]
    kept = baseline_files.collect_repeats(found)
    assert list(kept) == ["a"]
    assert kept["a"].seconds == (1.0, 2.0, 3.0, 4.0, 5.0)
    assert (kept["a"].clock_mhz, kept["a"].median_mhz) == (1900.0, 1950.0)


def chose(warps: int) -> tuple[AutotunerChoice, ...]:
    return (AutotunerChoice(kernel="_chunk_scan_fwd_kernel", key=("256", "64"), config={"num_warps": warps}),)


def test_what_the_autotuners_chose_is_kept_with_the_repeats_that_chose_it(tmp_path: Path) -> None:
    warps = [4, 8, 4, 4, 8]
    found = [replace(latency("a", n, 1.0 + n), choices=chose(warps[n])) for n in range(5)]
    found += [latency("b", n, 1.0) for n in range(5)]
    content = BaselineFile.model_validate({**CONTENT, "cases": {}}).model_copy(
        update={"cases": baseline_files.collect_repeats(found)}
    )
    path = tmp_path / "latency" / "nvidia-h200.json"
    baseline_files.write(path, content)
    read = baseline_files.read(path)
    first, second = (read.baseline(case, path) for case in ("a", "b"))
    assert first is not None
    assert first.chosen == (
        Chosen(repeats=(1, 3, 4), choices=chose(4)), Chosen(repeats=(2, 5), choices=chose(8))
    )  # fmt: skip
    assert second is not None
    assert second.chosen == ()


def test_a_file_without_choices_is_read(tmp_path: Path) -> None:
    path = file(tmp_path)
    assert "autotuner" not in path.read_text()
    (case,) = CONTENT["cases"]
    found = baseline_files.read(path).baseline(case, path)
    assert found is not None
    assert found.chosen == ()


def test_what_was_written_is_read_again(tmp_path: Path) -> None:
    content = BaselineFile.model_validate(CONTENT)
    path = tmp_path / "latency" / "nvidia-h200.json"
    baseline_files.write(path, content)
    assert baseline_files.read(path) == content
    assert [each.name for each in path.parent.iterdir()] == ["nvidia-h200.json"]


def test_a_partial_session_does_not_lose_cases(tmp_path: Path) -> None:
    path = file(tmp_path)
    before = path.read_text()
    partial = BaselineFile.model_validate({**CONTENT, "cases": {"other": {"seconds": [1.0] * 5}}})
    with pytest.raises(BaselineError, match=r"has 1 cases that this session did not measure \(rms_norm_fn-a-"):
        baseline_files.write(path, partial)
    assert path.read_text() == before


def test_a_latency_that_was_not_measured_has_no_number() -> None:
    assert replace(latency("a", 0, None)).timing is None
