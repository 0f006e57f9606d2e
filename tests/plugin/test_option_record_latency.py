"""--scanproof-record-latency: baselines of this device, from seven passes of one green session."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tests.support.latency_project import LatencyProject
from tests.support.small_project import Project

H200 = "expected/latency/nvidia-h200.json"


@pytest.mark.parametrize("way", ["flag", "ini", "environment"])
def test_the_baselines_of_a_gpu_lie_beside_the_expected_values(
    latency_project: LatencyProject, project: Project, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    project.document()
    latency_project.given(a=1e-3, b=2e-3)
    if way == "ini":
        (project.root / "tox.ini").write_text("[pytest]\nscanproof_record_latency = true\n")
    elif way == "environment":
        monkeypatch.setenv("SCANPROOF_RECORD_LATENCY", "1")
    result = latency_project.run("test_given.py", "-v", *(["--scanproof-record-latency"] if way == "flag" else []))
    result.assert_outcomes(passed=14)
    # Every repeat is a pass over all cases.
    result.stdout.fnmatch_lines(
        ["*[[]a-repeat1]*", "*[[]b-repeat1]*", "*[[]a-repeat2]*", "*[[]b-repeat7]*", f"*recorded in *{H200}"]
    )
    found = latency_project.baseline(H200)
    assert found["device"] == {"kind": "cuda", "name": "NVIDIA H200", "driver": None}
    choice = {"kernel": "scan_kernel", "key": ["256"], "config": {"num_warps": 4}}
    assert found["cases"]["a"] == {
        "seconds": pytest.approx([1e-3 + 0.5e-6 * n for n in range(1, 8)]),
        "clock_mhz": 1980.0,
        "median_mhz": None,
        "autotuner": [{"repeats": [1, 2, 3, 4, 5, 6, 7], "choices": [choice]}],
    }
    assert found["limits"]["bytes_per_s"] == 4e12
    assert found["packages"]["torch"]
    assert {each["outcome"] for each in latency_project.latencies()} == {"RECORDED"}


def test_every_pass_is_a_process_of_its_own(
    latency_project: LatencyProject, project: Project, request: pytest.FixtureRequest
) -> None:
    """An autotuner chooses once per process: passes of one process would hide how much its choice matters."""
    request.getfixturevalue("new_interpreters")
    project.document()
    latency_project.given(a=1e-3, b=2e-3, warps="4 if scanproof_repeat in (1, 5) else 8")
    path = latency_project.root / "test_given.py"
    path.write_text(path.read_text() + SAYS_WHERE)
    (latency_project.root / "test_other.py").write_text("def test_other(): pass\n" + SAYS_WHERE)
    latency_project.run("test_given.py", "test_other.py", "--scanproof-record-latency").assert_outcomes(passed=15)
    rows = [line.split() for line in (latency_project.root / "where.txt").read_text().splitlines()]
    processes: dict[str, set[str]] = {}
    for name, process in rows:
        repeat = name.removesuffix("]").rpartition("-")[2]
        processes.setdefault(process, set()).add(repeat)
    assert sorted(processes.values(), key=str) == [*({f"repeat{n}"} for n in range(1, 8)), {"test_other"}]
    kept = latency_project.baseline(H200)["cases"]["a"]["autotuner"]
    assert [(each["repeats"], each["choices"][0]["config"]["num_warps"]) for each in kept] == [
        ([1, 5], 4), ([2, 3, 4, 6, 7], 8)
    ]  # fmt: skip


SAYS_WHERE = """
import os, pytest

@pytest.fixture(autouse=True)
def where(request):
    with open("where.txt", "a") as file:
        print(request.node.name, os.getpid(), file=file)
"""


def test_a_pass_whose_process_dies_is_an_error_and_nothing_is_recorded(
    latency_project: LatencyProject, project: Project
) -> None:
    project.document()
    latency_project.given(a=1e-3)
    path = latency_project.root / "test_given.py"
    path.write_text(path.read_text() + "    if scanproof_repeat == 3: __import__('os')._exit(9)\n")
    result = latency_project.run("test_given.py", "--scanproof-record-latency")
    result.assert_outcomes(passed=6, errors=1)
    result.stdout.fnmatch_lines(["baselines NOT recorded: the session was not green and whole"])
    assert not (latency_project.root / "expected" / "latency").exists()


def test_without_it_nothing_is_recorded(latency_project: LatencyProject, project: Project) -> None:
    project.document()
    latency_project.given(a=1e-3)
    latency_project.run("test_given.py").assert_outcomes(passed=1)
    assert not (latency_project.root / "expected" / "latency").exists()


def test_a_cpu_stays_in_the_store(latency_project: LatencyProject, project: Project) -> None:
    project.document()
    latency_project.given(kind="cpu", a=1e-3)
    latency_project.run("test_given.py", "--scanproof-record-latency").assert_outcomes(passed=7)
    assert latency_project.baseline()["device"]["kind"] == "cpu"
    assert not (latency_project.root / "expected" / "latency").exists()


def test_the_suites_own_cases_are_recorded_on_this_cpu(latency_project: LatencyProject) -> None:
    latency_project.measuring()
    result = latency_project.measure("--scanproof-record-latency")
    result.assert_outcomes(passed=7)
    (seconds,) = (each["seconds"] for each in latency_project.baseline()["cases"].values())
    assert len(seconds) == 7
    assert min(seconds) > 0
    assert len(set(seconds)) > 1


@pytest.mark.parametrize(
    ("added", "reason"),
    [
        ("    assert False\n", "the session was not green and whole"),
        ("    if scanproof_repeat == 5: raise KeyboardInterrupt\n", "the session was not green and whole"),
    ],
)
def test_only_a_green_and_whole_session_is_recorded(
    latency_project: LatencyProject, project: Project, added: str, reason: str
) -> None:
    project.document()
    latency_project.given(a=1e-3)
    path = latency_project.root / "test_given.py"
    path.write_text(path.read_text() + added)
    result = latency_project.run("test_given.py", "--scanproof-record-latency")
    result.stdout.fnmatch_lines([f"baselines NOT recorded: {reason}"])
    assert result.ret != pytest.ExitCode.OK
    assert not (latency_project.root / "expected" / "latency").exists()


def test_a_session_that_only_strict_fails_is_not_recorded(latency_project: LatencyProject, project: Project) -> None:
    """A baseline without the case that a mark skipped would never see it slower."""
    project.document()
    latency_project.given(a=1e-3)
    (latency_project.root / "test_kernel.py").write_text(
        "import pytest\n\n@pytest.mark.skip\n@pytest.mark.parametrize('scanproof_place', ['gpu'])\n"
        "def test_kernel(scanproof_place): pass\n"
    )
    result = latency_project.run("test_given.py", "test_kernel.py", "--scanproof-record-latency", "--scanproof-strict")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["baselines NOT recorded: the session was not green and whole"])
    assert not (latency_project.root / "expected" / "latency").exists()


def test_ctrl_c_while_recording_leaves_the_baselines_as_they_were(
    latency_project: LatencyProject, project: Project, request: pytest.FixtureRequest
) -> None:
    """A real signal to the session, while one of its passes runs."""
    project.document()
    latency_project.given(a=1e-3)
    latency_project.run("test_given.py", "--scanproof-record-latency")
    before = (latency_project.root / H200).read_bytes()
    path = latency_project.root / "test_given.py"
    kill = "os.kill(os.getppid(), signal.SIGINT); time.sleep(60)"
    # A shell's background job ignores the signal, and so would all that it starts.
    listens = "import signal\nsignal.signal(signal.SIGINT, signal.default_int_handler)\n"
    (latency_project.root / "conftest.py").write_text(listens)
    signals = f"    import os, signal, time\n    if scanproof_repeat == 6: {kill}\n"
    path.write_text(path.read_text() + signals)
    # There the parent of a pass is the session.
    request.getfixturevalue("new_interpreters")
    result = latency_project.run("test_given.py", "--scanproof-record-latency")
    assert result.ret == pytest.ExitCode.INTERRUPTED
    result.stdout.fnmatch_lines(["baselines NOT recorded: the session was not green and whole"])
    assert (latency_project.root / H200).read_bytes() == before
    assert [each.name for each in (latency_project.root / H200).parent.iterdir()] == [H200.rpartition("/")[2]]


@pytest.fixture(params=["read-only", "a file"])
def unwritable(request: pytest.FixtureRequest, project: Project, latency_project: LatencyProject) -> Iterator[Path]:
    """expected/latency, where nothing can be written."""
    project.document()
    folder = latency_project.root / "expected" / "latency"
    if request.param == "a file":
        folder.write_text("")
        yield folder
        return
    folder.mkdir()
    folder.chmod(0o555)
    if os.access(folder, os.W_OK):
        pytest.skip("this user may write everywhere: permissions bind nobody who is root")
    yield folder
    folder.chmod(0o755)


def test_a_folder_that_cannot_be_written_is_said_before_anything_is_measured(
    latency_project: LatencyProject, unwritable: Path
) -> None:
    latency_project.given(a=1e-3)
    path = latency_project.root / "test_given.py"
    path.write_text(path.read_text().replace("@pytest.mark.latency\n", "@pytest.mark.latency\n@pytest.mark.gpu\n"))
    result = latency_project.run("test_given.py", "-m", "gpu", "--scanproof-record-latency")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(
        [f"ERROR: scanproof: --scanproof-record-latency: {unwritable}: nothing can be written*"]
    )
    result.stdout.no_fnmatch_line("*Traceback*")


def test_a_folder_that_became_unwritable_keeps_its_files(latency_project: LatencyProject, unwritable: Path) -> None:
    latency_project.given(a=1e-3)
    result = latency_project.run("test_given.py", "--scanproof-record-latency")
    result.stdout.fnmatch_lines([f"baselines of NVIDIA H200 NOT recorded: {unwritable}*: cannot be written: *"])
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.no_fnmatch_line("*Traceback*")


def test_a_recording_that_measured_nothing_is_no_success(latency_project: LatencyProject) -> None:
    (latency_project.root / "test_other.py").write_text("def test_other(): pass\n")
    result = latency_project.run("--scanproof-record-latency")
    result.stdout.fnmatch_lines(["baselines NOT recorded: no latency was measured"])
    assert result.ret == pytest.ExitCode.TESTS_FAILED


def test_a_part_of_the_cases_does_not_replace_the_whole(latency_project: LatencyProject, project: Project) -> None:
    project.document()
    latency_project.given(a=1e-3, b=2e-3)
    latency_project.run("test_given.py", "--scanproof-record-latency")
    before = (latency_project.root / H200).read_bytes()
    result = latency_project.run("test_given.py", "--scanproof-record-latency", "-k", "a-repeat")
    result.stdout.fnmatch_lines(["*NOT recorded*has 1 cases that this session did not measure (b, ...)*"])
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    assert (latency_project.root / H200).read_bytes() == before


def test_fewer_repeats_than_five_are_no_baseline(latency_project: LatencyProject, project: Project) -> None:
    project.document()
    latency_project.given(a=1e-3)
    result = latency_project.run("test_given.py", "--scanproof-record-latency", "-k", "repeat1 or repeat2")
    result.stdout.fnmatch_lines(["*NOT recorded: a and others have less than 5 repeats"])
    assert not (latency_project.root / "expected" / "latency").exists()


def test_a_loud_case_costs_no_other_its_baseline(latency_project: LatencyProject, project: Project) -> None:
    project.document()
    latency_project.given(a=1e-3, b=1e-3, c=1e-3, loud={("b", 3): 11.0}, waited={("c", 5): 26, ("a", 5): 25})
    result = latency_project.run("test_given.py", "--scanproof-record-latency")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines([
        "baseline of b NOT recorded: the slowest repeat takes 11.* times as long as the fastest, *; record again on *",
        "baseline of c NOT recorded: in 26 of 50 rounds the device may have waited for the host *; record again on *",
        "baselines of NVIDIA H200 recorded in *",
    ])  # fmt: skip
    assert latency_project.baseline(H200)["cases"].keys() == {"a"}


@pytest.mark.parametrize("strict", [False, True])
def test_a_baseline_that_is_not_there_fails_the_session_whatever_others_say(
    latency_project: LatencyProject, project: Project, strict: bool
) -> None:
    project.document()
    latency_project.given(a=1e-3, b=1e-3, loud={("b", 3): 11.0})
    conftest = latency_project.root / "conftest.py"
    conftest.write_text(f"{conftest.read_text() if conftest.exists() else ''}\n{SAYS_GREEN}")
    given = ("--scanproof-strict",) if strict else ()
    result = latency_project.run("test_given.py", "--scanproof-record-latency", "--junitxml=junit.xml", *given)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    failed = ElementTree.parse(latency_project.root / "junit.xml").findall(".//testcase[failure]")
    assert [each.attrib["name"] for each in failed] == ["every latency is kept"]


SAYS_GREEN = """
def pytest_sessionfinish(session): session.exitstatus = 0
"""


def test_where_no_case_is_quiet_no_file_is_written(latency_project: LatencyProject, project: Project) -> None:
    project.document()
    latency_project.given(a=1e-3, loud={("a", 3): 11.0})
    result = latency_project.run("test_given.py", "--scanproof-record-latency")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["baselines of NVIDIA H200 NOT recorded: no case was quiet enough: record again on *"])
    assert not (latency_project.root / "expected" / "latency").exists()


def test_what_timed_the_host_is_not_compared(latency_project: LatencyProject, project: Project) -> None:
    project.document()
    latency_project.given(a=1e-3)
    latency_project.run("test_given.py", "--scanproof-record-latency").assert_outcomes(passed=7)
    latency_project.given(a=2e-3, waited={("a", 0): 26})
    latency_project.run("test_given.py").stdout.no_fnmatch_line("*SLOWER*")
    (latency,) = latency_project.latencies()
    assert latency["outcome"] == "NOT_MEASURED"
    assert latency["because"].startswith("in 26 of 50 rounds the device may have waited for the host")


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("-n", "2"), "pytest-xdist runs tests beside each other: leave out -n"),
        (("--benchmark-disable",), "--benchmark-disable was given"),
        (("--benchmark-skip",), "--benchmark-skip was given"),
        (("-p", "no:benchmark"), "pytest-benchmark is not loaded*"),
    ],
)
def test_where_nothing_would_be_measured_recording_is_a_usage_error(
    latency_project: LatencyProject, arguments: tuple[str, ...], reason: str
) -> None:
    result = latency_project.run("--scanproof-record-latency", *arguments)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"*--scanproof-record-latency: nothing would be measured: {reason}"])


def test_a_broken_file_is_not_overwritten(latency_project: LatencyProject, project: Project) -> None:
    project.document()
    latency_project.given(kind="cpu", a=1e-3)
    path = latency_project.root / ".scanproof" / "latency" / "cpu.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({"device": "mine"}))
    result = latency_project.run("test_given.py", "--scanproof-record-latency")
    result.stdout.fnmatch_lines([f"*NOT recorded: {path}: not a file of latency baselines: device: *"])
    assert path.read_text() == '{"device": "mine"}'
