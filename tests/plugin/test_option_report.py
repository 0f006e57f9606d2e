"""--scanproof-report, the job summary and the properties of a JUnit file."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ET
from fnmatch import fnmatch
from pathlib import Path

import pytest

from tests.support.small_project import GOOD, Project

BAD = [["arc_easy", "acc", 0.2, 2376], *GOOD[1:]]
ID = "one-arc_easy-acc-author"


@pytest.fixture
def one(project: Project) -> Project:
    project.document(models=("one",))
    return project


def data(path: Path) -> dict[str, object]:
    """What the page says, as its scripts read it."""
    found = re.search(r'<script type="application/json" id="report">(.*?)</script>', path.read_text(), re.DOTALL)
    assert found is not None
    content: dict[str, object] = json.loads(found.group(1))
    return content


@pytest.mark.parametrize("workers", [(), ("-n", "2")], ids=["one process", "xdist"])
def test_the_page_is_written_from_the_stored_run(one: Project, workers: tuple[str, ...]) -> None:
    one.answer(BAD)
    result = one.run("--scanproof-report=out/page.html", *workers)
    result.assert_outcomes(failed=1, passed=2)
    result.stdout.fnmatch_lines(["page: *page.html"])
    made = data(one.root / "out" / "page.html")
    assert made["run"]["id"] == one.latest_run()["id"]  # type: ignore[index]
    assert made["verdict"]["failed"] == [ID]  # type: ignore[index]
    assert len(made["numbers"]) == 3  # type: ignore[arg-type]


def test_the_second_night_knows_the_first(one: Project) -> None:
    one.run()
    one.answer(BAD)
    one.run("--scanproof-report=page.html", "--scanproof-fresh")
    assert data(one.root / "page.html")["verdict"]["new"] == [ID]  # type: ignore[index]


@pytest.mark.parametrize("how", ["ini", "environment"])
def test_the_twins_of_the_flag(one: Project, how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if how == "ini":
        one.pytester.makeini("[pytest]\nscanproof_report = page.html\n")
    else:
        monkeypatch.setenv("SCANPROOF_REPORT", "page.html")
    one.run().assert_outcomes(passed=3)
    assert (one.root / "page.html").is_file()


def test_without_the_option_there_is_no_page(one: Project) -> None:
    one.run().stdout.no_fnmatch_line("page: *")
    assert not list(one.root.glob("**/*.html"))


def test_a_page_that_cannot_be_written_changes_no_result(one: Project) -> None:
    (one.root / "file").write_text("")
    result = one.run("--scanproof-report=file/page.html")
    assert result.ret == 0
    result.assert_outcomes(passed=3)
    result.stdout.fnmatch_lines(["NO page: *page.html cannot be written: *"])


def test_a_session_without_numbers_writes_none(one: Project) -> None:
    result = one.run("--scanproof-report=page.html", "-k", "nothing")
    assert result.ret == pytest.ExitCode.NO_TESTS_COLLECTED
    assert not (one.root / "page.html").exists()


@pytest.mark.parametrize(
    ("arguments", "ended"),
    [
        (("test_kernel.py",), pytest.ExitCode.TESTS_FAILED),
        (("-k", "nothing"), pytest.ExitCode.NO_TESTS_COLLECTED),
        (("--scanproof-strict", "--scanproof-limit=3"), pytest.ExitCode.USAGE_ERROR),
        (("--scanproof-engine=none",), pytest.ExitCode.USAGE_ERROR),
        (("--scanproof-expected=none",), pytest.ExitCode.USAGE_ERROR),
    ],
)
def test_the_page_of_an_earlier_session_does_not_stay(one: Project, arguments: tuple[str, ...], ended: int) -> None:
    """Yesterday's "passed" would be read as today's."""
    page = one.root / "page.html"
    page.write_text("Passed, of yesterday")
    (one.root / "test_kernel.py").write_text("def test_kernel():\n    assert False\n")
    assert one.run("--scanproof-report=page.html", *arguments).ret == ended
    left = page.read_text()
    assert "Passed" not in left
    assert "<h1>No report</h1>" in left
    assert re.search(r"A session began at \d{4}-\d\d-\d\d \d\d:\d\d:\d\d\+00:00 and has left no report", left)


def test_what_only_lists_tests_leaves_the_page(one: Project) -> None:
    page = one.root / "page.html"
    page.write_text("of the last session")
    one.run("--scanproof-report=page.html", "--collect-only")
    assert page.read_text() == "of the last session"


def test_the_summary_of_a_job_is_appended(one: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    summary = one.root / "summary.md"
    summary.write_text("# before\n")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(summary))
    one.answer(BAD)
    one.run().stdout.fnmatch_lines(["summary: *summary.md"])
    lines = summary.read_text().splitlines()
    assert lines[:2] == ["# before", "## scanproof: ✕ Failed"]
    assert any(line.startswith("| one-arc&#95;easy-acc-author | 50.0 % | 19.99 % |") for line in lines)


def test_a_summary_that_cannot_be_written_changes_no_result(one: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(one.root / "no" / "folder"))
    result = one.run()
    result.assert_outcomes(passed=3)
    result.stdout.fnmatch_lines(["NO job summary: *"])


def failing_cases(path: Path) -> dict[str, str]:
    """Name of each case of scanproof's own that failed -> what it says."""
    suite = ET.parse(path).getroot().find("testsuite")
    assert suite is not None
    failing = {case: case.find("failure") for case in suite.findall("testcase")}
    named = {case: failure for case, failure in failing.items() if failure is not None}
    assert int(suite.get("failures") or 0) == len(named)
    assert int(suite.get("tests") or 0) == len(failing)
    assert {case.get("classname") for case in named} == {"scanproof"}
    return {case.get("name") or "": failure.text or "" for case, failure in named.items()}


LACKING = {
    "every selected test runs": (
        "@pytest.hookimpl(tryfirst=True)\ndef pytest_runtest_protocol(item): return item.name == 'test_own' or None",
        "1 selected tests did not run, and nothing failed: test_own.py::test_own; a plugin*",
    ),
    "no test is taken away": (
        "def pytest_collection_modifyitems(items):\n    del items[0]",
        "1 tests were collected and are gone: test_own.py::test_own; *",
    ),
    "every number is earned": (
        "def pytest_runtest_setup(item):\n    if 'perplexity' in item.nodeid: pytest.skip('not today')",
        "*1 of 3 numbers are NOT_RUN: one-lambada*",
    ),
    "a test that failed fails the session": (
        "@pytest.hookimpl(wrapper=True)\n"
        "def pytest_runtest_makereport(item):\n    report = yield\n"
        "    if item.name == 'test_own' and report.when == 'call':\n"
        "        report.outcome, report.wasxfail, report.longrepr = 'failed', 'flaky', 'as always'\n"
        "    return report",
        "1 tests failed: test_own.py::test_own; *",
    ),
}


@pytest.mark.parametrize("workers", [(), ("-n", "1")], ids=["one process", "xdist"])
@pytest.mark.parametrize("promise", LACKING)
def test_what_a_strict_session_lacks_is_a_failed_case_of_the_junit_file(
    one: Project, promise: str, workers: tuple[str, ...]
) -> None:
    """Systems that read the JUnit file alone would show green."""
    conftest, said = LACKING[promise]
    (one.root / "test_own.py").write_text("def test_own(): pass\n")
    (one.root / "plug.py").write_text(f"import pytest\n{conftest}\n")
    result = one.run(
        "-p", "plug", "--scanproof-strict", "--junitxml=junit.xml", "test_own.py", "test_published.py", *workers
    )
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    cases = failing_cases(one.root / "junit.xml")
    assert fnmatch(cases[promise], said)
    lines = "\n".join(cases.values()).splitlines()
    shown = [line for line in result.outlines if line.startswith("not green")]
    assert sorted(shown) == sorted(f"not green under --scanproof-strict: {line}" for line in lines)


def test_a_session_that_was_interrupted_is_a_failed_case(one: Project) -> None:
    (one.root / "plug.py").write_text("def pytest_runtest_logfinish(): raise KeyboardInterrupt\n")
    result = one.run("-p", "plug", "--junitxml=junit.xml")
    assert result.ret == pytest.ExitCode.INTERRUPTED
    said = "it ended with exit code 2 (INTERRUPTED), and no test failed"
    assert failing_cases(one.root / "junit.xml") == {"the session ends well": said}


def test_a_selection_of_nothing_is_a_failed_case_under_strict_alone(one: Project) -> None:
    selected = "-k", "nothing", "--junitxml=junit.xml"
    assert one.run(*selected).ret == pytest.ExitCode.NO_TESTS_COLLECTED
    assert "<failure" not in (one.root / "junit.xml").read_text()
    assert one.run("--scanproof-strict", *selected).ret == pytest.ExitCode.NO_TESTS_COLLECTED
    assert list(failing_cases(one.root / "junit.xml")) == ["the session ends well"]


@pytest.mark.parametrize("strict", [(), ("--scanproof-strict",)], ids=["not strict", "strict"])
def test_a_green_session_has_no_case_of_scanproof(one: Project, strict: tuple[str, ...]) -> None:
    assert one.run("--junitxml=junit.xml", *strict).ret == pytest.ExitCode.OK
    assert 'classname="scanproof"' not in (one.root / "junit.xml").read_text()


@pytest.mark.parametrize("workers", [(), ("-n", "2")], ids=["one process", "xdist"])
def test_a_junit_file_holds_the_verdict_and_every_number(one: Project, workers: tuple[str, ...]) -> None:
    one.answer(BAD)
    one.run("--junitxml=junit.xml", *workers)
    suite = ET.parse(one.root / "junit.xml").getroot().find("testsuite")
    assert suite is not None
    about = {each.get("name"): each.get("value") for each in suite.findall("properties/property")}
    assert about["scanproof_verdict"] == "failed"
    assert about["scanproof_failed"] == ID
    case = next(each for each in suite.findall("testcase") if ID in (each.get("name") or ""))
    held = {each.get("name"): each.get("value") for each in case.findall("properties/property")}
    assert (held["scanproof_outcome"], held["scanproof_printed"]) == ("OUT_OF_TOLERANCE", "50.0")
    # The mean of 2376 documents that is nearest to 0.2.
    assert float(held["scanproof_measured"] or "") == 475 / 2376
    assert float(held["scanproof_sigmas"] or "") < -5
