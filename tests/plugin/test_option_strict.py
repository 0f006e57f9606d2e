"""--scanproof-strict: a nightly can never pass by skipping."""

from __future__ import annotations

from pathlib import Path

import pytest

from scanproof.environment import why_no_gpu
from tests.support.small_project import Project

needs_no_gpu = pytest.mark.skipif(
    why_no_gpu() is None, reason="this machine has a GPU: nothing is skipped for lack of one"
)


@needs_no_gpu
def test_without_a_gpu_numbers_are_skipped_with_the_reason(project: Project) -> None:
    project.document(suite="gpu", device="cuda")
    result = project.run()
    result.assert_outcomes(skipped=6)
    result.stdout.fnmatch_lines(["*6 numbers not run: needs an NVIDIA GPU*", "*6 numbers: 6 NOT_RUN*"])
    assert result.ret == pytest.ExitCode.OK
    assert project.jobs() == []


@needs_no_gpu
@pytest.mark.parametrize("way", ["flag", "ini", "environment"])
def test_strict_turns_the_skip_into_an_error(project: Project, way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    project.document(suite="gpu", device="cuda")
    if way == "ini":
        (project.root / "tox.ini").write_text("[pytest]\nscanproof_strict = true\n")
    elif way == "environment":
        monkeypatch.setenv("SCANPROOF_STRICT", "1")
    result = project.run(*(["--scanproof-strict"] if way == "flag" else []))
    result.assert_outcomes(errors=6)
    result.stdout.fnmatch_lines(["*needs an NVIDIA GPU*--scanproof-strict: not a skip*", "*6 numbers: 6 ERROR*"])
    assert result.ret == pytest.ExitCode.TESTS_FAILED


@pytest.mark.parametrize("strict", [False, True])
def test_a_checkpoint_that_the_mirror_lacks_is_a_skip_and_under_strict_an_error(project: Project, strict: bool) -> None:
    project.document(models=("one",))
    project.answer({"kind": "missing", "message": "the mirror /srv/m has no model org/one"})
    result = project.run(*(["--scanproof-strict"] if strict else []))
    result.assert_outcomes(**{"errors" if strict else "skipped": 3})
    result.stdout.fnmatch_lines(["*the mirror /srv/m has no model org/one*"])


def test_a_switch_in_the_environment_is_1_or_0(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCANPROOF_STRICT", "perhaps")
    result = project.run()
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*SCANPROOF_STRICT is 1 or 0, not 'perhaps'*"])


NO_LOOP = """
import pytest

@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop(session):
    return True
"""
NO_RUN = """
import pytest

@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtestloop(session):
    try:
        return (yield)
    except BaseException:
        return True
"""
NO_PROTOCOL = """
import pytest

@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item):
    return "perplexity" in item.nodeid or None
"""


def in_a_folder_of_tests(project: Project, conftest: str) -> Path:
    """Put the suite into a folder with a conftest.py of its own: it is read late, and its hooks are asked first."""
    folder = project.root / "published"
    folder.mkdir()
    (project.root / "test_published.py").rename(folder / "test_published.py")
    (folder / "conftest.py").write_text(conftest)
    return folder


@pytest.mark.parametrize("workers", [(), ("-n", "1")], ids=["one process", "xdist"])
@pytest.mark.parametrize("conftest", [NO_LOOP, NO_PROTOCOL], ids=["no loop", "a test left out"])
def test_a_strict_session_whose_tests_a_plugin_kept_from_running_fails(
    project: Project, conftest: str, workers: tuple[str, ...]
) -> None:
    project.document(models=("one",))
    in_a_folder_of_tests(project, conftest)
    result = project.run("--scanproof-strict", *workers)
    assert result.ret != pytest.ExitCode.OK


def test_a_session_whose_loop_another_plugin_answers_is_partial(project: Project) -> None:
    project.document(models=("one",))
    in_a_folder_of_tests(project, NO_LOOP)
    result = project.run("--scanproof-strict")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines([
        "0 numbers; 3 more were selected and not reached: this run is partial",
        "not green under --scanproof-strict: 3 of 3 selected numbers have no verdict*",
    ])  # fmt: skip
    run = project.latest_run()
    assert (run["finished"], run["selected"], run["records"]) == (None, 3, [])


def test_a_strict_session_without_a_record_fails_and_says_so(project: Project) -> None:
    """The record cannot be begun, and a conftest hides why."""
    project.document(models=("one",))
    in_a_folder_of_tests(project, NO_RUN)
    (project.root / ".scanproof").write_text("a file, where the store would be")
    result = project.run("--scanproof-strict")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(
        ["not green under --scanproof-strict: 3 selected tests did not run, and nothing failed*"]
    )


def test_other_tests_that_a_plugin_left_out_fail_a_strict_session_too(project: Project) -> None:
    project.pytester.makepyfile(test_own="def test_own():\n    pass\n")
    (project.root / "conftest.py").write_text(NO_LOOP)
    assert project.run("test_own.py").ret == pytest.ExitCode.OK
    result = project.run("test_own.py", "--scanproof-strict")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["*1 selected tests did not run, and nothing failed: test_own.py::test_own*"])


@pytest.mark.parametrize("option", ["--collect-only", "--fixtures", "--fixtures-per-test"])
def test_what_is_not_meant_to_run_does_not_fail_a_strict_session(project: Project, option: str) -> None:
    project.document(models=("one",))
    assert project.run("--scanproof-strict", option).ret == pytest.ExitCode.OK
