"""A number that cannot be made again from its answers: an error where that is needed, and said wherever it is not."""

from __future__ import annotations

from typing import Any

import pytest

from scanproof.history import new_baseline
from scanproof.history.errors import HistoryError
from scanproof.history.store import open_history
from tests.support.small_project import HOOK, Project

LOST = """
    for path in samples.glob("arc_easy.jsonl"):
        path.write_text(path.read_text().replace('"lengths"', '"sizes"'))
    return Evaluation("""
NUMBER = "one-arc_easy-acc_norm"
MISSING = "arc_easy: the lengths of the answers was not kept"


@pytest.fixture
def lossy(project: Project) -> Project:
    """A project whose hook keeps no lengths of answers, so that no acc_norm can be made again."""
    project.pytester.makeconftest(HOOK.replace("\n    return Evaluation(", LOST))
    (project.root / "history").mkdir()
    return project


def record_of(project: Project) -> Any:
    run: Any = project.latest_run()
    (kept,) = (record for record in run["records"] if record["id"].startswith(NUMBER))
    return kept


@pytest.mark.parametrize(("suite", "strict"), [("embedded", False), ("embedded", True), ("gpu", True)])
def test_for_stand_ins_and_under_strict_it_is_an_error(lossy: Project, suite: str, strict: bool) -> None:
    lossy.document(suite=suite, models=("one",))
    result = lossy.run("--scanproof-history=history", *(["--scanproof-strict"] if strict else []))
    result.assert_outcomes(passed=2, failed=1)
    kept = record_of(lossy)
    assert kept["outcome"] == "ERROR"
    assert kept["because"].startswith(f"its scores cannot be made again: {MISSING}; measure it again; where a hook")
    history = open_history(str(lossy.root / "history"))
    with pytest.raises(HistoryError, match=rf"it failed: 1 of 3 numbers, first {NUMBER}-\w+ \(ERROR\)"):
        new_baseline.declare(history, history.find("latest"), "it was as printed")


def test_elsewhere_the_reason_stands_beside_the_verdict_and_is_counted(lossy: Project) -> None:
    lossy.document(models=("one",))
    result = lossy.run()
    result.assert_outcomes(passed=3)
    kept = record_of(lossy)
    assert kept["outcome"] == "REPRODUCED"
    assert kept["because"].endswith(f"allowed; its scores were not made again: {MISSING}")
    result.stdout.fnmatch_lines([f"not made again from their answers: 1 numbers: {MISSING}"])


def test_a_number_that_was_made_again_says_nothing_of_it(project: Project) -> None:
    project.document(models=("one",))
    project.run().stdout.no_fnmatch_line("not made again*")
    assert record_of(project)["verdict"]["not_made_again"] is None
