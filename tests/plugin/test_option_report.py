"""--scanproof-report, the job summary and the properties of a JUnit file."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ET
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


def test_the_summary_of_a_job_is_appended(one: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    summary = one.root / "summary.md"
    summary.write_text("# before\n")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(summary))
    one.answer(BAD)
    one.run().stdout.fnmatch_lines(["summary: *summary.md"])
    lines = summary.read_text().splitlines()
    assert lines[:2] == ["# before", "## scanproof: ✕ Failed"]
    assert any(line.startswith("| one-arc&#95;easy-acc-author | 50.0 % | 20.00 % |") for line in lines)


def test_a_summary_that_cannot_be_written_changes_no_result(one: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(one.root / "no" / "folder"))
    result = one.run()
    result.assert_outcomes(passed=3)
    result.stdout.fnmatch_lines(["NO job summary: *"])


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
    assert float(held["scanproof_measured"] or "") == 0.2
    assert float(held["scanproof_sigmas"] or "") < -5
