"""What a number's test says: pass, fail with everything a reader needs, error, known discrepancy."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ElementTree

import pytest

from tests.support.small_project import GOOD, Project


def test_numbers_that_come_out_pass_and_end_in_a_table(project: Project) -> None:
    project.document(models=("one",))
    result = project.run()
    result.assert_outcomes(passed=3)
    result.stdout.fnmatch_lines([
        "number *expected *measured *difference *allowed *verdict",
        "one-arc_easy-acc-author * 50.0 * 50.00 * +0.00 * REPRODUCED",
        "3 numbers: 3 REPRODUCED",
        "recorded in *run.json",
    ])  # fmt: skip


@pytest.mark.parametrize("measured", [1117 / 2376, 1259 / 2376])
def test_a_failure_says_everything_and_shows_no_traceback(project: Project, measured: float) -> None:
    """Two-sided: too good is a failed reproduction as well."""
    project.document(models=("one",))
    project.answer([["arc_easy", "acc", measured, 2376], *GOOD[1:]])
    result = project.run()
    result.assert_outcomes(passed=2, failed=1)
    sign = "+" if measured > 0.5 else "-"
    result.stdout.fnmatch_lines([
        f"{measured * 100:.2f} measured, 50.0 expected, * allowed: too {'high' if sign == '+' else 'low'}",
        "*expected *50.0 (percent) *document 900 line 3, author; expected/900-test/one.yaml:12*",
        f"*measured *{measured * 100:.2f}*",
        f"*difference *{sign}2.99 points, {sign}71.0 documents, {sign}*sigmas*",
        "*allowed * points, made of*",
        "*0.05 *rounding: half a unit of the last digit of 50.0*",
        "*flips: *",
        "*detectable *",
        "*n *2376 documents*",
        "*again *lm_eval --model hf*",
        "*samples *",
    ])  # fmt: skip
    assert "Traceback" not in result.stdout.str()
    assert not re.search(r"test_published\.py:\d", result.stdout.str())


def test_a_broken_evaluation_is_an_error_for_its_own_numbers_only(project: Project) -> None:
    project.document()
    project.answer({"kind": "killed", "message": "the worker was killed by SIGKILL"})
    result = project.run()
    result.assert_outcomes(errors=6)
    result.stdout.fnmatch_lines(["*one-arc_easy-acc-author: not measured: *killed by SIGKILL*", "*6 numbers: 6 ERROR*"])
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    assert len(project.jobs()) == 2, "a job that broke is not tried again for each of its numbers"


def test_a_known_discrepancy_is_expected_to_fail_and_fails_the_day_it_goes_away(project: Project) -> None:
    path = project.document(models=("one",)) / "one.yaml"
    reason = (
        'printed: "50.0", unit: percent, known_discrepancy: {comes_out: "30.0", source: its row, reason: Wrong row.}'
    )
    path.write_text(path.read_text().replace('printed: "50.0", unit: percent', reason))
    project.answer([["arc_easy", "acc", 0.3, 2376], *GOOD[1:]])
    result = project.run()
    result.assert_outcomes(passed=2, xfailed=1)
    result.stdout.fnmatch_lines(
        ["*KNOWN_DISCREPANCY*", "known discrepancy: one-arc_easy-acc-author: Wrong row. It is 30.0 that comes out*"]
    )
    project.answer([["arc_easy", "acc", 0.1, 2376], *GOOD[1:]])
    result = project.run()
    result.assert_outcomes(passed=2, failed=1)
    result.stdout.fnmatch_lines(["*measured neither as printed nor the 30.0 that is known to come out (its row)*"])
    project.answer()
    result = project.run()
    result.assert_outcomes(passed=2, failed=1)
    result.stdout.fnmatch_lines(["*remove known_discrepancy from 900-test/one.yaml:12*"])


def test_a_number_that_was_not_measured_is_an_error(project: Project) -> None:
    project.document(models=("one",))
    project.answer(GOOD[1:])
    result = project.run()
    result.assert_outcomes(passed=2, errors=1)
    result.stdout.fnmatch_lines(["*the evaluation measured no acc for arc_easy*"])


def test_not_a_number_is_an_error_never_a_pass(project: Project) -> None:
    project.document(models=("one",))
    project.answer([["arc_easy", "acc", float("nan"), 2376], *GOOD[1:]])
    result = project.run()
    result.assert_outcomes(passed=2, failed=1)
    result.stdout.fnmatch_lines(["*arc_easy acc: nan in the evaluation, its 2376 documents make 0.5*"])


def test_widened_by_hand_is_listed_in_every_summary(project: Project) -> None:
    path = project.document(models=("one",)) / "one.yaml"
    widened = 'printed: "50.0", unit: percent, widened: {by: 5.0, reason: "a hotter GPU"}'
    path.write_text(path.read_text().replace('printed: "50.0", unit: percent', widened))
    project.answer([["arc_easy", "acc", 0.47, 2376], *GOOD[1:]])
    result = project.run()
    result.assert_outcomes(passed=3)
    result.stdout.fnmatch_lines(["widened by hand: one-arc_easy-acc-author by 5: a hotter GPU (900-test/one.yaml:12)"])


def test_junit_carries_the_record_of_each_number(project: Project) -> None:
    project.document(models=("one",))
    project.run("--junitxml=out.xml")
    properties = ElementTree.parse(project.root / "out.xml").findall(".//testcase/properties/property")
    records = [json.loads(entry.attrib["value"]) for entry in properties if entry.attrib["name"] == "scanproof"]
    assert [record["outcome"] for record in records] == ["REPRODUCED"] * 3
    assert records[0]["verdict"]["measured"] == 0.5


XFAIL = """

def pytest_collection_modifyitems(items):
    for item in items:
        item.add_marker(pytest.mark.xfail)
"""


@pytest.mark.parametrize("workers", [(), ("-n", "1")], ids=["one process", "xdist"])
@pytest.mark.parametrize(("strict", "under"), [((), ""), (("--scanproof-strict",), " under --scanproof-strict")])
def test_a_mark_of_another_plugin_makes_no_pass_of_a_wrong_number(
    project: Project, strict: tuple[str, ...], under: str, workers: tuple[str, ...]
) -> None:
    project.document(models=("one",))
    project.answer([["arc_easy", "acc", 0.6, 2376], *GOOD[1:]])
    with (project.root / "conftest.py").open("a") as conftest:
        conftest.write(XFAIL)
    result = project.run(*strict, *workers)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.assert_outcomes(xfailed=1, xpassed=2)
    line = f"not green{under}: 1 of 3 numbers are OUT_OF_TOLERANCE: one-arc_easy-acc-author"
    result.stdout.fnmatch_lines([line])


def test_what_was_not_measured_stays_what_its_test_is(project: Project) -> None:
    project.document(models=("one",))
    project.answer({"kind": "killed", "message": "the worker was killed by SIGKILL"})
    with (project.root / "conftest.py").open("a") as conftest:
        conftest.write(XFAIL)
    result = project.run()
    result.assert_outcomes(xfailed=3)
    assert result.ret == pytest.ExitCode.OK
