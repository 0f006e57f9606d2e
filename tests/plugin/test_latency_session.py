"""Latencies in a session: measured through pytest-benchmark, compared with a baseline, recorded, never a zero."""

from __future__ import annotations

import json
from typing import Any

import pytest

from scanproof.history.run_failures import list_failures
from tests.support.latency_project import CASE, LatencyProject, cpu_baseline
from tests.support.small_project import Project

DYING = """
@pytest.fixture(autouse=True)
def dies():
    yield
    assert False, "the device is gone"
"""
WRONG = "return tuple(value * 1.5 for value in call(**arguments))"


def test_without_a_baseline_a_latency_is_recorded_said_and_not_failed(latency_project: LatencyProject) -> None:
    latency_project.measuring()
    result = latency_project.measure()
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(
        [
            "latency * median *noise *GB/s *TFLOP/s *of limit *to baseline *verdict",
            f"{CASE} * NO_BASELINE",
            "limits of *: copy * GB/s; matrix product float32 * TFLOP/s",
            "*has no baseline of this case; --scanproof-record-latency records them",
            "1 latencies: 1 NO_BASELINE",
            "recorded in *run.json",
        ]
    )
    (found,) = latency_project.latencies()
    assert found["id"] == CASE
    assert found["timing"]["rounds"] >= 11
    assert 0 < found["timing"]["q1"] <= found["timing"]["median"] <= found["timing"]["q3"]
    # Input, weight and residual read, output and residual written.
    assert found["bytes"] == 4 * (4 * 2 * 64 * 256 + 256)


def test_a_test_that_failed_before_the_first_latency_is_in_the_run(
    latency_project: LatencyProject, project: Project
) -> None:
    """The record of a session without numbers begins with its first latency; kernel tests come before."""
    project.document()
    latency_project.given(a=1e-3)
    (latency_project.root / "test_early.py").write_text("def test_early():\n    assert False\n")
    latency_project.run("test_early.py", "test_given.py")
    assert list_failures(latency_project.newest()) == [
        "1 tests failed without a record that says so: test_early.py::test_early"
    ]


@pytest.mark.parametrize(
    ("seconds", "outcome", "exit_code"),
    [
        ((0.900e-3, 0.901e-3, 0.902e-3, 0.901e-3, 0.900e-3), "SLOWER", pytest.ExitCode.TESTS_FAILED),
        ((1.000e-3, 1.001e-3, 1.002e-3, 1.001e-3, 1.000e-3), "SAME", pytest.ExitCode.OK),
        ((1.100e-3, 1.101e-3, 1.102e-3, 1.101e-3, 1.100e-3), "FASTER", pytest.ExitCode.OK),
        ((0.98e-3, 1.02e-3, 0.99e-3, 1.01e-3, 1.0e-3), "AMBIGUOUS", pytest.ExitCode.OK),
        ((0.8e-3, 1.2e-3, 0.9e-3, 1.1e-3, 1.0e-3), "NOT_MEASURED", pytest.ExitCode.OK),
    ],
)
def test_a_latency_is_compared_with_its_baseline(
    latency_project: LatencyProject, seconds: tuple[float, ...], outcome: str, exit_code: pytest.ExitCode
) -> None:
    latency_project.taking(1e-3)
    cpu_baseline(latency_project, *seconds)
    result = latency_project.measure()
    assert result.ret == exit_code
    assert latency_project.latencies()[0]["outcome"] == outcome
    result.stdout.fnmatch_lines([f"1 latencies: 1 {outcome}"])


def test_a_baseline_too_noisy_to_judge_by_is_a_skip_and_under_strict_a_failure(
    latency_project: LatencyProject,
) -> None:
    latency_project.taking(1e-3)
    cpu_baseline(latency_project, 0.5e-3, 0.5e-3, 0.5e-3, 0.5e-3, 0.5e-3, 0.5e-3, 4e-3)
    latency_project.measure().assert_outcomes(skipped=1)
    result = latency_project.measure("--scanproof-strict")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        ["*latency was not judged: noise would hide a kernel that takes 2 times as long; the baseline's repeats *"]
    )
    result.stdout.fnmatch_lines(
        [f"not judged: {CASE}: noise would hide *: record the baseline again on a quiet device"]
    )
    assert latency_project.latencies()[0]["timing"]["median"] == pytest.approx(1e-3, rel=0.01)


@pytest.mark.parametrize(
    ("seconds", "why"),
    [
        ([*[0.05e-3] * 6, 20e-3], "the slowest repeat takes 400 times as long as the fastest, and *"),
        ([1.0] * 7, "the call took 999.0 times as long then as now; no kernel becomes faster by more than 10 times: *"),
        (
            [1e-6] * 7,
            "1e-06 s is 52.5 times as fast as the limits of the device in the same file allow, 5.253e-05 s; *",
        ),
    ],
)
def test_a_baseline_that_was_never_measured_is_refused(
    latency_project: LatencyProject, seconds: list[float], why: str
) -> None:
    latency_project.taking(1e-3)
    cpu_baseline(latency_project, *seconds)
    result = latency_project.measure()
    result.assert_outcomes(failed=1)
    remedy = "remove the file and record its baselines again: --scanproof-record-latency"
    result.stdout.fnmatch_lines([f"*latency/cpu.json: *cases.{CASE}.seconds: {why}; {remedy}"])


def test_a_mark_of_another_plugin_makes_no_pass_of_a_slower_kernel(latency_project: LatencyProject) -> None:
    latency_project.taking(1e-3)
    cpu_baseline(latency_project, 0.900e-3, 0.901e-3, 0.902e-3, 0.901e-3, 0.900e-3)
    with (latency_project.root / "conftest.py").open("a") as conftest:
        conftest.write("\ndef pytest_collection_modifyitems(items):\n")
        conftest.write("    for item in items:\n        item.add_marker(pytest.mark.xfail)\n")
    result = latency_project.measure()
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines([f"not green: 1 of 1 kernel cases are SLOWER: {CASE}"])


def test_a_kernel_made_slower_fails_with_the_numbers(latency_project: LatencyProject) -> None:
    cpu_baseline(latency_project, 90e-6, 91e-6, 90e-6, 90e-6, 91e-6, 90e-6, 90e-6)
    latency_project.taking(30e-3)
    result = latency_project.measure()
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            "30.00 ms measured, 90.28 us in the baseline: +33129.4%, more than 6.1% from the baseline",
            f"  latency     {CASE}",
            "  measured    30.00 ms, quartiles 30.00 ms and 30.00 ms, 11 rounds of 1 call, noise 0.00%, stopped by *",
            "  baseline    90.28 us, 7 repeats, noise 0.54% between them  [[]*cpu.json, recorded 2026-11-21 with *]",
            "  called      beyond 6.1% of the baseline, by both noises",
            "  work        0.0175 GB/s, 5.46e-06 TFLOP/s, 0.0% of the limit (memory)",
            "  device      *; clock not read on a processor",
        ]
    )


def test_autotuners_choose_at_the_size_that_is_timed_and_that_choice_is_checked(
    latency_project: LatencyProject,
) -> None:
    """seqlen 64 is timed, 20 is checked; forward and backward share the autotuner's key."""
    latency_project.tuned()
    result = latency_project.measure(case="selective_scan_fn-small")
    result.assert_outcomes(passed=2)
    lines = (latency_project.root / "launched.txt").read_text().split("\n")
    launched = [tuple(line.split()) for line in lines if line]
    # Chosen anew for each of the two latencies, by itself, without what other processes left on the disk.
    assert launched[0] == ("64", "8", "False")
    assert launched.count(("64", "8", "False")) == 2
    # Then it is checked as it was chosen, and timed so.
    assert {each for each in launched if each[2] == "True"} == {("20", "8", "True"), ("64", "8", "True")}
    assert [each[0] for each in launched[:2]] == ["64", "20"]
    for found in latency_project.latencies():
        assert found["choices"] == [{"kernel": "scan_kernel", "key": ["float32"], "config": {"num_warps": 8}}]


def test_what_is_wrong_is_not_timed(latency_project: LatencyProject) -> None:
    latency_project.measuring(change=WRONG)
    result = latency_project.measure()
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(
        [
            f"*{CASE}: its results are wrong, and what is wrong is not timed: *2 of 2 results are wrong",
            "*out[[]*expected *, got *",
            f"wrong: {CASE}: its results are wrong, *",
            "1 latencies: 1 WRONG",
        ]
    )
    (found,) = latency_project.latencies()
    assert (found["timing"], found["outcome"]) == (None, "WRONG")
    assert list(list_failures(latency_project.newest())) == [f"1 of 1 kernel cases are WRONG: {CASE}"]


def test_a_latency_test_that_dies_before_it_leaves_anything_is_in_the_run(latency_project: LatencyProject) -> None:
    latency_project.measuring(change="raise RuntimeError('an illegal memory access was encountered')")
    latency_project.measure().assert_outcomes(errors=1)
    (said,) = list_failures(latency_project.newest())
    assert said.startswith("1 tests failed without a record that says so: test_latency.py::")


def test_a_latency_test_that_dies_after_it_was_timed_is_in_the_run(latency_project: LatencyProject) -> None:
    latency_project.measuring()
    conftest = latency_project.root / "conftest.py"
    conftest.write_text(conftest.read_text() + DYING)
    latency_project.measure().assert_outcomes(passed=1, errors=1)
    (said,) = list_failures(latency_project.newest())
    assert said.startswith("1 tests failed without a record that says so: test_latency.py::")


def test_beside_other_tests_latency_is_not_measured_and_never_zero(latency_project: LatencyProject) -> None:
    latency_project.measuring()
    result = latency_project.measure("-n", "2", case="rms_norm_fn-small")
    result.assert_outcomes(skipped=2)
    reason = "pytest-xdist runs tests beside each other: leave out -n"
    result.stdout.fnmatch_lines([f"2 latencies not measured: {reason}", "2 latencies: 2 NOT_MEASURED"])
    for found in latency_project.latencies():
        assert (found["timing"], found["because"]) == (None, reason)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("--benchmark-disable",), "--benchmark-disable was given"),
        (("-p", "no:benchmark"), "pytest-benchmark is not loaded: install it, or leave out -p no:benchmark"),
        (("--benchmark-skip",), "Skipping benchmark (--benchmark-skip active)."),
    ],
)
def test_where_nothing_is_measured_the_test_is_a_skip(
    latency_project: LatencyProject, arguments: tuple[str, ...], reason: str
) -> None:
    latency_project.measuring()
    result = latency_project.run("-k", CASE, "-rs", *arguments)
    result.assert_outcomes(skipped=1)
    result.stdout.fnmatch_lines([f"SKIPPED*{reason}"])


def test_strict_does_not_take_an_unmeasured_latency_for_a_pass(latency_project: LatencyProject) -> None:
    latency_project.measuring()
    result = latency_project.run("-k", CASE, "--benchmark-disable", "--scanproof-strict")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*--benchmark-disable was given (--scanproof-strict: not a skip)"])


def test_the_habits_of_pytest_benchmark_work(latency_project: LatencyProject) -> None:
    latency_project.measuring()
    (latency_project.root / "test_other.py").write_text("def test_other(): pass\n")
    latency_project.measure("--benchmark-save=first", "--benchmark-only").assert_outcomes(passed=1)
    result = latency_project.measure(
        "--benchmark-compare=0001", "--benchmark-json=out.json", "--benchmark-columns=median,iqr,rounds"
    )
    result.assert_outcomes(passed=1)
    for line in ("*benchmark 'rms_norm_fn forward': 2 tests*", "*(NOW)*", "*(0001_first)*"):
        result.stdout.fnmatch_lines([line])
    (kept,) = json.loads((latency_project.root / "out.json").read_text())["benchmarks"]
    (found,) = latency_project.latencies()
    assert len(kept["stats"]["data"]) == found["timing"]["rounds"]
    assert kept["stats"]["median"] == found["timing"]["median"]
    assert kept["extra_info"]["verdict"] == "NO_BASELINE"
    assert kept["extra_info"]["GB/s"] == pytest.approx(found["bytes"] / found["timing"]["median"] / 1e9)


def test_a_regression_that_pytest_benchmark_was_told_to_fail_fails(latency_project: LatencyProject) -> None:
    latency_project.taking(1e-3)
    latency_project.measure("--benchmark-autosave")
    latency_project.taking(5e-3)
    result = latency_project.measure("--benchmark-compare", "--benchmark-compare-fail=median:300%")
    assert result.ret != pytest.ExitCode.OK
    result.stderr.fnmatch_lines(["*Performance has regressed*"])


def test_one_slower_latency_of_a_gpu_fails_and_the_others_do_not(
    latency_project: LatencyProject, project: Project
) -> None:
    project.document()
    latency_project.given(a=1e-3, b=2e-3, c=3e-3)
    latency_project.run("test_given.py", "--scanproof-record-latency").assert_outcomes(passed=21)
    latency_project.given(a=1e-3, b=2.2e-3, c=2.7e-3, d=1.0, warps="8")
    result = latency_project.run("test_given.py")
    result.assert_outcomes(passed=3, failed=1)
    found = {each["id"]: each["outcome"] for each in latency_project.latencies()}
    assert found == {"a": "SAME", "b": "SLOWER", "c": "FASTER", "d": "NO_BASELINE"}
    result.stdout.fnmatch_lines(
        [
            "2.200 ms measured, 2.004 ms in the baseline: +9.8%, more than 3.0% from the baseline",
            "  autotuner   chose differently: scan_kernel chose num_warps 8 (4 before) for 256",
            "  work        455 GB/s, 0.455 TFLOP/s, 11.4% of the limit (memory)",
            "  device      NVIDIA H200; clock 1980 to 1980 MHz",
            "faster: c: more than 3.0% from the baseline",
            "1 not compared: NVIDIA H200 has no baseline of this case; --scanproof-record-latency records them",
            "4 latencies: 1 FASTER, 1 NO_BASELINE, 1 SAME, 1 SLOWER",
        ]
    )


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("nvidia-h200.json", "{", "the file: Invalid JSON"),
        ("nvidia-h200.json", '{"schema_version": 3}', "schema_version: Input should be 1"),
        ("nvidia-h200.json", '{"device": {"kind": "cuda"}}', "device.name: Field required"),
    ],
)
def test_a_mistake_in_a_file_of_baselines_is_a_usage_error(
    latency_project: LatencyProject, project: Project, name: str, content: str, said: str
) -> None:
    project.document()
    latency_project.given(a=1e-3)
    path = latency_project.root / "expected" / "latency" / name
    path.parent.mkdir()
    path.write_text(content)
    result = latency_project.run("test_given.py")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"*{path}: not a file of latency baselines: *{said}*"])
    # Published numbers do not need it.
    assert latency_project.run("test_published.py").ret == pytest.ExitCode.OK


def test_a_session_stopped_half_way_is_a_partial_run(latency_project: LatencyProject, project: Project) -> None:
    project.document()
    latency_project.given(a=1e-3, b=1e-3)
    latency_project.run("test_given.py", "-x")
    assert project.latest_run()["finished"] is not None
    text = (latency_project.root / "test_given.py").read_text()
    (latency_project.root / "test_given.py").write_text(text + "    if case == 'b': raise KeyboardInterrupt\n")
    latency_project.run("test_given.py")
    assert project.latest_run()["finished"] is None


def test_latencies_stand_beside_published_numbers(latency_project: LatencyProject, project: Project) -> None:
    project.document(models=("one",))
    latency_project.given(a=1e-3)
    result = latency_project.run()
    result.assert_outcomes(passed=4)
    result.stdout.fnmatch_lines(["1 latencies: 1 NO_BASELINE", "3 numbers: 3 REPRODUCED"])
    run: Any = project.latest_run()
    assert (len(run["records"]), len(run["latencies"])) == (3, 1)
