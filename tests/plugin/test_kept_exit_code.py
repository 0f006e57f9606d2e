"""A session that failed ends with the exit code of its failure, strict or not, whoever makes 0 of it."""

from __future__ import annotations

import pytest

from tests.support.small_project import GOOD, Project

STRICT = pytest.mark.parametrize("strict", [(), ("--scanproof-strict",)], ids=["not strict", "strict"])
WAYS = {
    "in a hook": "@pytest.hookimpl(trylast=True)\ndef pytest_sessionfinish(session): session.exitstatus = 0",
    "in a wrapper": """
@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_sessionfinish(session):
    yield
    session.exitstatus = 0
""",
    "by pytest.exit at its end": "def pytest_sessionfinish(): pytest.exit('done', returncode=0)",
    "by sys.exit at its end": "def pytest_sessionfinish(): raise SystemExit(0)",
    "by sys.exit after it": "def pytest_unconfigure(): raise SystemExit",
    "around it": """
@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_cmdline_main():
    yield
    return 0
""",
}
ENDS_WELL = WAYS["around it"]


@STRICT
@pytest.mark.parametrize("way", WAYS)
def test_a_session_that_failed_does_not_end_with_0(
    pytester: pytest.Pytester, way: str, strict: tuple[str, ...]
) -> None:
    pytester.makepyfile(test_it="def test_it(): assert False")
    pytester.makeconftest(f"import pytest\n{WAYS[way]}\n")
    assert pytester.runpytest_subprocess(*strict).ret == pytest.ExitCode.TESTS_FAILED


@STRICT
@pytest.mark.parametrize(
    ("test", "options", "code"),
    [
        ("raise ImportError", (), pytest.ExitCode.INTERRUPTED),
        ("raise ImportError", ("--continue-on-collection-errors",), pytest.ExitCode.TESTS_FAILED),
        ("def test_it(): assert False\ndef test_more(): pass", ("-x",), pytest.ExitCode.TESTS_FAILED),
        ("def test_it(): raise KeyboardInterrupt", (), pytest.ExitCode.INTERRUPTED),
    ],
    ids=["collection", "in part of the collection", "-x", "a key"],
)
def test_however_it_failed(
    pytester: pytest.Pytester, test: str, options: tuple[str, ...], code: int, strict: tuple[str, ...]
) -> None:
    pytester.makepyfile(test_it=test, test_own="def test_own(): pass")
    pytester.makeconftest(f"import pytest\n{ENDS_WELL}\n")
    result = pytester.runpytest_subprocess(*options, *strict)
    assert result.ret == code
    result.stderr.fnmatch_lines(
        [f"scanproof: not green: a plugin or a conftest.py ended the session with 0, not {code:d}"]
    )


BEFORE = {
    "as it is read": ("raise SystemExit(0)", pytest.ExitCode.USAGE_ERROR),
    "as it is configured": (
        "import pytest\n@pytest.hookimpl(tryfirst=True)\n"
        "def pytest_configure(): pytest.exit('no GPU here', returncode=0)",
        pytest.ExitCode.TESTS_FAILED,
    ),
}


@pytest.mark.parametrize("how", ["flag", "ini", "environment"])
@pytest.mark.parametrize("when", BEFORE)
def test_a_strict_session_that_ends_before_it_begins_does_not_end_with_0(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, when: str, how: str
) -> None:
    conftest, code = BEFORE[when]
    pytester.makepyfile(test_it="def test_it(): pass")
    pytester.makeconftest(conftest)
    if how == "ini":
        pytester.makeini("[pytest]\nscanproof_strict = true\n")
    elif how == "environment":
        monkeypatch.setenv("SCANPROOF_STRICT", "1")
    assert pytester.runpytest_subprocess(*(["--scanproof-strict"] if how == "flag" else [])).ret == code


@pytest.mark.parametrize(
    ("options", "code"), [((), 0), (("--scanproof-strict",), pytest.ExitCode.NO_TESTS_COLLECTED)], ids=["not", "strict"]
)
def test_a_session_that_selects_nothing_may_be_called_good_without_strict(
    pytester: pytest.Pytester, options: tuple[str, ...], code: int
) -> None:
    pytester.makeconftest(f"import pytest\n{ENDS_WELL}\n")
    assert pytester.runpytest_subprocess(*options).ret == code


EXIT = "def pytest_runtest_logfinish(): pytest.exit('enough', returncode=0)"
HIDDEN = {
    "skipped": (
        "def pytest_collection_modifyitems(items):\n    for item in items: item.add_marker(pytest.mark.skip)",
        "not green: 3 of 3 numbers are NOT_RUN: one-*",
    ),
    "expected to fail and not run": (
        "def pytest_collection_modifyitems(items):\n"
        "    for item in items: item.add_marker(pytest.mark.xfail(run=False))",
        "not green: 3 of 3 numbers are NOT_RUN: one-*",
    ),
    "left out": (
        "@pytest.hookimpl(tryfirst=True)\n"
        "def pytest_runtest_protocol(item): return 'perplexity' in item.nodeid or None",
        "not green: 1 of 3 selected numbers were not reached: one-lambada*",
    ),
    "ended early": (EXIT, "not green: 2 of 3 selected numbers were not reached: one-*"),
}


# With pytest-xdist it is the worker that pytest.exit ends.
BY_WORKERS = [(how, ("-n", "1")) for how in HIDDEN if how != "ended early"]


@pytest.mark.parametrize(("how", "workers"), [*((how, ()) for how in HIDDEN), *BY_WORKERS])
def test_a_stand_in_without_a_verdict_fails_every_session(project: Project, how: str, workers: tuple[str, ...]) -> None:
    """Its comparison is due without --scanproof-strict as well, and nothing that it needs can be missing here."""
    conftest, said = HIDDEN[how]
    project.document(suite="embedded", models=("one",))
    (project.root / "plug.py").write_text(f"import pytest\n{conftest}\n")
    result = project.run("-p", "plug", *workers)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines([said])


def test_a_published_number_may_be_skipped_by_others_without_strict_and_not_be_left_out(project: Project) -> None:
    project.document(models=("one",))
    for how, code in {"skipped": pytest.ExitCode.OK, "ended early": pytest.ExitCode.TESTS_FAILED}.items():
        (project.root / "plug.py").write_text(f"import pytest\n{HIDDEN[how][0]}\n")
        assert project.run("-p", "plug").ret == code


def test_an_error_of_a_stand_in_that_a_mark_expects_fails_every_session(project: Project) -> None:
    project.document(suite="embedded", models=("one",))
    project.answer([["arc_easy", "acc", float("nan"), 2376], *GOOD[1:]])
    (project.root / "plug.py").write_text(
        "import pytest\ndef pytest_collection_modifyitems(items):\n"
        "    for item in items: item.add_marker(pytest.mark.xfail)"
    )
    result = project.run("-p", "plug")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["not green: * of 3 numbers are ERROR: one-*"])


@pytest.mark.parametrize(
    ("options", "test", "code"),
    [
        (("--scanproof-timeout=never",), "def test_it(): pass", pytest.ExitCode.USAGE_ERROR),
        ((), "import os\ndef test_it(): os._exit(0)", 0),
    ],
    ids=["a usage error", "ends itself"],
)
def test_the_junit_file_of_an_earlier_session_is_not_left_for_this_one(
    pytester: pytest.Pytester, options: tuple[str, ...], test: str, code: int
) -> None:
    pytester.makepyfile(test_it="def test_it(): pass")
    assert pytester.runpytest_subprocess("--junitxml=out/junit.xml").ret == 0
    assert (pytester.path / "out" / "junit.xml").is_file()
    pytester.makepyfile(test_it=test)
    assert pytester.runpytest_subprocess("--junitxml=out/junit.xml", "--collect-only").ret == 0
    assert pytester.runpytest_subprocess("--junitxml=out/junit.xml", *options).ret == code
    assert not (pytester.path / "out" / "junit.xml").exists()


def test_a_junit_file_that_cannot_be_removed_is_a_usage_error(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(test_it="def test_it(): pass")
    (pytester.path / "junit.xml").mkdir()
    result = pytester.runpytest_subprocess("--junitxml=junit.xml")
    assert result.ret != 0
