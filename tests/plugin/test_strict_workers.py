"""A strict session under pytest-xdist: what its workers say, and one that says nothing."""

from __future__ import annotations

import pytest

TESTS = """
import pytest

@pytest.mark.xdist_group("g")
@pytest.mark.parametrize("n", range(3))
def test_grouped(n): pass

def test_other(): pass
"""
DIES = """
import os
import pytest

@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish(session):
    if hasattr(session.config, "workerinput"):
        os._exit(0)
"""


@pytest.mark.parametrize("dist", ["load", "loadgroup", "worksteal", "each"])
def test_tests_of_a_group_are_not_gone(pytester: pytest.Pytester, dist: str) -> None:
    """pytest-xdist adds the name of the group to their ids."""
    pytester.makepyfile(test_it=TESTS)
    result = pytester.runpytest_subprocess("--scanproof-strict", "-n", "1", "--dist", dist)
    result.assert_outcomes(passed=4)
    assert result.ret == pytest.ExitCode.OK


@pytest.mark.parametrize("chosen", [("-k", "other"), ("--deselect", "test_it.py::test_grouped")])
def test_tests_of_a_group_that_the_call_leaves_out_are_not_gone(
    pytester: pytest.Pytester, chosen: tuple[str, ...]
) -> None:
    pytester.makepyfile(test_it=TESTS)
    result = pytester.runpytest_subprocess("--scanproof-strict", "-n", "1", "--dist", "loadgroup", *chosen)
    result.assert_outcomes(passed=1)
    assert result.ret == pytest.ExitCode.OK


def test_a_test_of_a_group_that_is_taken_away_unsaid_is_gone(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(test_it=TESTS)
    pytester.makeconftest("def pytest_collection_modifyitems(items):\n    del items[0]\n")
    result = pytester.runpytest_subprocess("--scanproof-strict", "-n", "1", "--dist", "loadgroup")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["*: 1 tests were collected and are gone: test_it.py::test_grouped?0?*"])


@pytest.mark.parametrize(("strict", "code"), [(("--scanproof-strict",), 1), ((), 0)])
def test_a_worker_that_dies_before_it_says_what_it_saw(
    pytester: pytest.Pytester, strict: tuple[str, ...], code: int
) -> None:
    pytester.makepyfile(test_it=TESTS)
    pytester.makeconftest(DIES)
    result = pytester.runpytest_subprocess(*strict, "-n", "1", "--max-worker-restart", "0")
    assert result.ret == code
    if strict:
        said = "not green under --scanproof-strict: 1 workers of pytest-xdist ended before they said what they had seen"
        result.stdout.fnmatch_lines([f"{said}: gw0: *"])


def test_a_worker_that_dies_before_its_tests_held_nothing(pytester: pytest.Pytester) -> None:
    """pytest-xdist starts another one in its place."""
    pytester.makepyfile(test_it=TESTS)
    pytester.makeconftest(
        """
import os
from pathlib import Path

def pytest_sessionstart(session):
    mark = Path(__file__).with_name("died")
    if hasattr(session.config, "workerinput") and not mark.exists():
        mark.touch()
        os._exit(0)
"""
    )
    result = pytester.runpytest_subprocess("--scanproof-strict", "-n", "1")
    result.assert_outcomes(passed=4)
    assert result.ret == pytest.ExitCode.OK
