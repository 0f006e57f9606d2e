"""Under strict what leaves tests out is typed in the call: a variable or an ini file makes no failing test vanish."""

from __future__ import annotations

import shlex

import pytest

STRICT = "--scanproof-strict"
SELECTIONS = {
    "a file": ["--ignore=test_b.py"],
    "files": ["--ignore-glob=*_b.py"],
    "a test": ["--deselect=test_b.py::test_b"],
    "names": ["-k", "test_a"],
    "names without a space": ["-ktest_a"],
    "names of files": ["-o", "python_files=test_a*.py"],
    "names of functions": ["--override-ini=python_functions=test_a"],
    "names of folders": ["-o", "norecursedirs=inner"],
    "what failed last": ["--lf"],
    "the next that fails": ["--sw"],
    "another ini file": ["-c", "other.ini"],
    "the files to test": ["test_a.py"],
    "marks": ["-m", "not other"],
}
RUNS = pytest.mark.parametrize("workers", [(), ("-n", "1")], ids=["one process", "xdist"])


@pytest.fixture
def suite(pytester: pytest.Pytester) -> pytest.Pytester:
    """A test that passes, one that fails, and one that fails in a folder."""
    pytester.path.joinpath("other.ini").write_text("[pytest]\npython_files = test_a*.py\n")
    pytester.makepyfile(test_a="def test_a(): pass\n", test_b="def test_b(): assert False\n")
    (pytester.mkdir("inner") / "test_b_inner.py").write_text("def test_b_inner(): assert False\n")
    return pytester


def refuse(suite: pytest.Pytester, source: str) -> None:
    result = suite.runpytest_subprocess(STRICT)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"*scanproof: * leaves tests out of a strict session*; take it out of {source}, *"])


@pytest.mark.parametrize("what", SELECTIONS)
def test_tests_that_a_variable_leaves_out_are_a_usage_error(
    suite: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    monkeypatch.setenv("PYTEST_ADDOPTS", shlex.join(SELECTIONS[what]))
    refuse(suite, "PYTEST_ADDOPTS")


@pytest.mark.parametrize("what", ["a file", "names of files"])
def test_tests_that_an_ini_file_leaves_out_are_a_usage_error_under_strict(suite: pytest.Pytester, what: str) -> None:
    suite.makeini(f"[pytest]\naddopts = {shlex.join(SELECTIONS[what])}\n")
    refuse(suite, "addopts of */tox.ini")
    assert suite.runpytest_subprocess().ret != pytest.ExitCode.USAGE_ERROR


def test_tests_that_a_conftest_leaves_out_by_an_option_are_a_usage_error(suite: pytest.Pytester) -> None:
    suite.makeconftest("def pytest_configure(config): config.option.ignore = ['test_b.py']\n")
    refuse(suite, "the plugin or the conftest.py that sets it")


@pytest.mark.parametrize("hook", ["pytest_sessionstart(session)", "pytest_collection(session)"])
def test_tests_that_a_hook_leaves_out_later_are_a_usage_error(suite: pytest.Pytester, hook: str) -> None:
    suite.makeconftest(f"def {hook}: session.config.option.keyword = 'test_a'\n")
    refuse(suite, "the plugin or the conftest.py that sets it")


def test_files_beside_those_of_the_call_leave_nothing_out(
    suite: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTEST_ADDOPTS", "test_b.py")
    assert suite.runpytest_subprocess(STRICT, "test_a.py").parseoutcomes() == {"passed": 1, "failed": 1}


@RUNS
def test_what_the_call_says_is_chosen(
    suite: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, workers: tuple[str, ...]
) -> None:
    call = (
        "--ignore=inner",
        "--ignore-glob=*/none*",
        "--deselect",
        "test_b.py",
        "-ra",
        "-kb or a",
        "-opython_files=test_*",
    )
    assert suite.runpytest_subprocess(STRICT, *call, *workers).ret == pytest.ExitCode.OK
    monkeypatch.setenv("PYTEST_ADDOPTS", "--deselect=test_b.py -k test_b -o python_files=test_b.py")
    assert suite.runpytest_subprocess(STRICT, *call, *workers).ret == pytest.ExitCode.OK, "the call comes last"
    monkeypatch.setenv("PYTEST_ADDOPTS", "--deselect=inner")
    assert suite.runpytest_subprocess(STRICT, *call, *workers).ret == pytest.ExitCode.USAGE_ERROR, "this is more"


@RUNS
def test_marks_of_a_project_may_choose(suite: pytest.Pytester, workers: tuple[str, ...]) -> None:
    suite.makepyfile(test_b="import pytest\n@pytest.mark.gpu\ndef test_b(): assert False\n")
    suite.makeini("[pytest]\naddopts = -m 'not gpu' --strict-markers\nnorecursedirs = inner\n")
    result = suite.runpytest_subprocess(STRICT, *workers)
    assert result.ret == pytest.ExitCode.OK
    assert "python_files" not in result.stdout.str()


def test_other_names_of_files_are_said(suite: pytest.Pytester) -> None:
    """A project may have set them on purpose, or somebody left them behind."""
    suite.makeini("[pytest]\npython_files = test_a*.py\n")
    result = suite.runpytest_subprocess(STRICT)
    assert result.ret == pytest.ExitCode.OK
    result.stdout.fnmatch_lines(["python_files is test_a*.py: *may not be collected"])
    assert "python_files" not in suite.runpytest_subprocess().stdout.str()
