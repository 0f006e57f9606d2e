"""A strict session lists what it would run only where a person's own call asks for both: a list runs no test."""

from __future__ import annotations

import pytest

TESTS = "def test_own(): pass"


@pytest.mark.parametrize("option", ["--collect-only", "--fixtures"])
def test_a_strict_session_may_list(pytester: pytest.Pytester, option: str) -> None:
    pytester.makepyfile(test_it=TESTS)
    assert pytester.runpytest_subprocess("--scanproof-strict", option).ret == pytest.ExitCode.OK


UNTYPED = {
    "listed by a variable": ({"PYTEST_ADDOPTS": "--collect-only"}, "", ("--scanproof-strict",)),
    "listed by the ini file": ({}, "addopts = --fixtures", ("--scanproof-strict",)),
    "help by a variable": ({"PYTEST_ADDOPTS": "--help"}, "", ("--scanproof-strict",)),
    "strict by a variable": ({"SCANPROOF_STRICT": "1"}, "", ("--collect-only",)),
    "strict by the ini file": ({}, "scanproof_strict = true", ("--co",)),
    "strict by the ini file's options": ({}, "addopts = --scanproof-strict", ("--collect-only",)),
    "both by a variable": ({"PYTEST_ADDOPTS": "--scanproof-strict --collect-only"}, "", ()),
}


@pytest.mark.parametrize("how", UNTYPED)
def test_a_session_that_is_to_be_strict_and_only_lists_is_a_usage_error(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """It would end with 0, and the page of the night before would stay."""
    pytester.makepyfile(test_it=TESTS)
    variables, line, call = UNTYPED[how]
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    pytester.makeini(f"[pytest]\n{line}\n")
    page = pytester.path / "page.html"
    page.write_text("Passed, of yesterday")
    # An option would not be read behind --help.
    monkeypatch.setenv("SCANPROOF_REPORT", "page.html")
    result = pytester.runpytest_subprocess(*call)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*scanproof: --* runs no test*"])
    assert "Passed" not in page.read_text()


def test_strict_in_the_ini_file_forbids_no_listing_for_good(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytester.makepyfile(test_it=TESTS)
    pytester.makeini("[pytest]\nscanproof_strict = true\n")
    assert pytester.runpytest_subprocess("--markers").ret == pytest.ExitCode.OK
    monkeypatch.setenv("SCANPROOF_STRICT", "0")
    assert pytester.runpytest_subprocess("--collect-only").ret == pytest.ExitCode.OK
