"""A latency that was compared once is not compared with nothing later, unless somebody says so in the file."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from scanproof.kernels.latency import baseline_files
from scanproof.kernels.latency.baseline_files import BaselineFile, CaseForm
from scanproof.kernels.latency.latency_verdict import Latency
from scanproof.plugin import latency_baselines
from scanproof.plugin.options import read_settings
from scanproof.plugin.session import Session
from tests.support.latency_project import CASE, LatencyProject, cpu_baseline
from tests.support.small_project import Project


def test_a_baseline_that_is_lost_fails_a_strict_session(latency_project: LatencyProject) -> None:
    """It switched the comparison off: a kernel of any speed had no baseline."""
    latency_project.taking(1e-3)
    latency_project.measure("--scanproof-strict").assert_outcomes(passed=1)
    cpu_baseline(latency_project, 1.000e-3, 1.001e-3, 1.002e-3, 1.001e-3, 1.000e-3)
    latency_project.measure().assert_outcomes(passed=1)
    compared = latency_project.newest().id
    path = latency_project.root / ".scanproof" / "latency" / "cpu.json"
    content = path.read_bytes()
    path.unlink()
    latency_project.taking(1e-2)
    latency_project.measure().stdout.fnmatch_lines(["1 latencies: 1 NO_BASELINE"])
    for _ in range(2):
        result = latency_project.measure("--scanproof-strict")
        result.assert_outcomes(failed=1)
        because = f"* has no baseline of this case, and run {compared} had one: bring it back to {path}, or record *"
        result.stdout.fnmatch_lines([f"*latency was not judged: {because}"])
        assert latency_project.latencies()[0]["outcome"] == "NOT_MEASURED"
    path.write_bytes(content)
    latency_project.measure("--scanproof-strict").stdout.fnmatch_lines(["1 latencies: 1 SLOWER"])
    # Nor does a recording of other cases, however new.
    newer = json.loads(content) | {"recorded": "2999-01-01T00:00:00+00:00", "cases": {}}
    path.write_text(json.dumps(newer))
    latency_project.measure("--scanproof-strict").stdout.fnmatch_lines(["1 latencies: 1 NOT_MEASURED"])


@pytest.mark.parametrize(
    ("compared_on", "own_file", "missed"),
    [
        ("NVIDIA H100", False, True),
        ("NVIDIA H100", True, False),
        ("NVIDIA H200", True, True),
        ("NVIDIA H200 of before", True, True),
    ],
    ids=["no file yet", "has a file", "the same device", "the same device by another name"],
)
def test_which_comparison_a_device_owes(
    pytestconfig: pytest.Config, tmp_path: Path, compared_on: str, own_file: bool, missed: bool
) -> None:
    """Another device's comparison is not asked of one that has its own file, as long as that one has its file too."""
    session = Session(pytestconfig, replace(read_settings(pytestconfig), expected=tmp_path))
    session.compared_latencies = {("cuda", "a"): {compared_on: "20260101T010000Z-1"}}
    measured = Latency(id="a", nodeid="a", op="o", direction="forward", kind="cuda", device="NVIDIA H200")
    folder = tmp_path / baseline_files.FOLDER
    folder.mkdir()
    (folder / "nvidia-h100.json").write_text("{}")
    if own_file:
        (folder / "nvidia-h200.json").write_text("{}")
    own = BaselineFile.model_construct() if own_file else None
    why = latency_baselines.why_baseline_is_missed(session, measured, folder / "nvidia-h200.json", own)
    where = "" if compared_on == measured.device else f" on {compared_on}"
    if missed:
        said = f"and run 20260101T010000Z-1 had one{where}: bring it back to {folder / 'nvidia-h200.json'}, "
        assert said in str(why)
    else:
        assert why is None


def test_a_run_that_cannot_be_read_leaves_it_open_whether_a_latency_was_compared(
    latency_project: LatencyProject,
) -> None:
    latency_project.taking(1e-3)
    latency_project.measure("--scanproof-strict").assert_outcomes(passed=1)
    run = latency_project.newest().id
    path = latency_project.root / ".scanproof" / "runs" / run / "run.json"
    path.write_bytes(path.read_bytes()[:-9])
    result = latency_project.measure("--scanproof-strict")
    result.assert_outcomes(failed=1)
    said = f"*it is not known whether it had one: 1 of the store's runs cannot be read: {run}; put an untouched copy *"
    result.stdout.fnmatch_lines([said, "1 latencies: 1 NOT_MEASURED"])
    assert latency_project.measure().ret == pytest.ExitCode.OK


def test_a_comparison_is_ended_by_hand_with_a_reason_and_stays_ended(latency_project: LatencyProject) -> None:
    latency_project.taking(1e-3)
    cpu_baseline(latency_project, 1.000e-3, 1.001e-3, 1.002e-3, 1.001e-3, 1.000e-3)
    latency_project.measure("--scanproof-strict").stdout.fnmatch_lines(["1 latencies: 1 SAME"])
    path = latency_project.root / ".scanproof" / "latency" / "cpu.json"
    without = json.loads(path.read_bytes()) | {"cases": {}, "without": {CASE: "too loud on this machine"}}
    path.write_text(json.dumps(without))
    result = latency_project.measure("--scanproof-strict")
    assert result.ret == pytest.ExitCode.OK
    result.stdout.fnmatch_lines([f"*{path}: without: too loud on this machine", "1 latencies: 1 NO_BASELINE"])
    again = baseline_files.read(path).model_copy(update={"without": {}})
    baseline_files.write(path, again)
    assert baseline_files.read(path).without == {CASE: "too loud on this machine"}
    baseline_files.write(path, again.model_copy(update={"cases": {CASE: CaseForm(seconds=(1.0,) * 5)}}))
    assert baseline_files.read(path).without == {}


def test_a_device_of_another_name_is_not_compared_with_nothing_under_strict(
    latency_project: LatencyProject, project: Project
) -> None:
    """Its first night is told by recording: then its baselines are there."""
    project.document()
    latency_project.given(a=1e-3)
    latency_project.run("test_given.py", "--scanproof-strict").assert_outcomes(passed=1)
    latency_project.run("test_given.py", "--scanproof-record-latency").assert_outcomes(passed=7)
    folder = latency_project.root / "expected" / "latency"
    text = (folder / "nvidia-h200.json").read_text()
    (folder / "nvidia-h200.json").unlink()
    (folder / "nvidia-h200-nvl.json").write_text(text.replace("NVIDIA H200", "NVIDIA H200 NVL"))
    result = latency_project.run("test_given.py", "--scanproof-strict")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    said = (
        "NVIDIA H200 has no baselines, and other devices have (nvidia-h200-nvl.json): bring it back to *, or record *"
    )
    result.stdout.fnmatch_lines([f"not judged: a: {said}"])
    assert latency_project.run("test_given.py").ret == pytest.ExitCode.OK
    latency_project.run("test_given.py", "--scanproof-record-latency").assert_outcomes(passed=7)
    assert latency_project.run("test_given.py", "--scanproof-strict").ret == pytest.ExitCode.OK
