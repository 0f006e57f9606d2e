"""A fault planted by hand into the stand-ins' scan makes the embedded run fail: the suite's reason to be."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from scanproof.record import find_run, read_run
from tests.support.known_digests import copy_digests

pytestmark = pytest.mark.usefixtures("warm_copies")

ROOT = Path(__file__).parents[2]
REFERENCE = "scanproof/kernels/references/papers.py"
LINE = {
    "skip dropped in the scan": ("y = y + D[:, None] * u", "y = y + 0 * u"),
    "skip dropped in SSD": ("y if D is None else y + _skip(D) * x), state", "y), state"),
    "convolution shifted by one": ("torch.cat([before, x], dim=-1)", "torch.cat([before, x], dim=-1).roll(1, -1)"),
    "state forgotten across a chunk of the scan": ("y, state = _scan_chunk(", "y, _ = _scan_chunk("),
    "skip scaled by 1.02": ("y = y + D[:, None] * u", "y = y + 1.02 * D[:, None] * u"),
    "skip scaled by 1.02 in SSD": (
        "y if D is None else y + _skip(D) * x), state",
        "y if D is None else y + 1.02 * _skip(D) * x), state",
    ),
    "state forgotten across a chunk of SSD": ("y, state = _ssd_chunk(", "y, _ = _ssd_chunk("),
}


def faulty_clone(folder: Path, fault: str) -> Path:
    """The package with one line changed; data and checkpoints are the real ones."""
    shutil.copytree(ROOT / "scanproof", folder / "scanproof", ignore=shutil.ignore_patterns("mirror"))
    (folder / "scanproof" / "embedded" / "mirror").symlink_to(ROOT / "scanproof" / "embedded" / "mirror")
    path = folder / REFERENCE
    text, (right, wrong) = path.read_text(), LINE[fault]
    assert text.count(right) >= 1, f"the line to spoil is gone: {right}"
    path.write_text(text.replace(right, wrong, 1))
    return folder


def run_suite(clone: Path, model: str, *options: str) -> subprocess.CompletedProcess[str]:
    """The embedded run of one stand-in, on three of its tasks."""
    copy_digests(clone / "store")
    command = [
        sys.executable, "-m", "pytest", "-m", "embedded", "-q", "-p", "no:cacheprovider",
        "-k", f"{model} and (lambada or arc_easy or hellaswag)", str(ROOT / "tests" / "published"),
        "--rootdir", str(ROOT), "-c", str(ROOT / "pyproject.toml"), "--scanproof-store", str(clone / "store"),
        *options,
    ]  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": str(clone)}
    return subprocess.run(command, cwd=clone, env=environment, capture_output=True, text=True, check=False)


# By default what fails is scored once more, by plain lm-eval, which takes most of the time: one fault of each scan.
SHARED = ("--scanproof-engine=shared",)


@pytest.mark.parametrize(
    ("model", "fault", "options"),
    [
        ("mamba1-tiny", "skip dropped in the scan", ()),
        ("mamba1-tiny", "state forgotten across a chunk of the scan", SHARED),
        ("mamba1-tiny", "convolution shifted by one", SHARED),
        ("mamba2-tiny", "skip dropped in SSD", SHARED),
        ("mamba2-tiny", "state forgotten across a chunk of SSD", ()),
        ("mamba2attn-tiny", "convolution shifted by one", SHARED),
    ],
)
def test_a_fault_in_the_scan_fails_the_embedded_run(
    tmp_path: Path, model: str, fault: str, options: tuple[str, ...]
) -> None:
    clone = faulty_clone(tmp_path, fault)
    result = run_suite(clone, model, *options)
    assert result.returncode == pytest.ExitCode.TESTS_FAILED, result.stdout
    run = read_run(find_run(clone / "store" / "runs", "latest"))
    outcomes = {record.outcome for record in run.records}
    assert "OUT_OF_TOLERANCE" in outcomes, "the run has to fail by its numbers"
    assert "ERROR" not in outcomes, "and not because it broke"
    assert {record.hub_id for record in run.records} == {f"scanproof/{model}"}


@pytest.mark.parametrize(
    ("model", "fault", "options"),
    [("mamba1-tiny", "skip scaled by 1.02", ()), ("mamba2-tiny", "skip scaled by 1.02 in SSD", SHARED)],
)
def test_a_fault_too_small_for_the_printed_numbers_is_caught_document_by_document(
    tmp_path: Path, model: str, fault: str, options: tuple[str, ...]
) -> None:
    clone = faulty_clone(tmp_path, fault)
    result = run_suite(clone, model, *options)
    assert result.returncode == pytest.ExitCode.TESTS_FAILED, result.stdout
    run = read_run(find_run(clone / "store" / "runs", "latest"))
    assert {record.outcome for record in run.records} == {"CHANGED"}, result.stdout
    for record in run.records:
        assert record.verdict is not None
        assert record.verdict.allowance is not None
        assert record.verdict.difference is not None
        assert abs(record.verdict.difference) <= record.verdict.allowance.total, "the first gate lets it pass"
        assert record.gate is not None
        assert record.gate.changed
