"""Which tokens a fixed text became is evidence: where one side does not say it, no number passes as compared."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from scanproof.history import new_baseline
from scanproof.history.store import open_history
from scanproof.numbers.verdict.paired_tests import compare_tokens, explain_absent_tokens
from tests.support.small_project import Project

SAID = ', "probe_tokens": PROBE_TOKENS'


def say_nothing(project: Project) -> None:
    """From now on evaluations do not say which tokens a fixed text became."""
    evidence = project.root / "evidence.py"
    assert SAID in evidence.read_text()
    evidence.write_text(evidence.read_text().replace(SAID, ""))


def forget_tokens(path: Path) -> None:
    """Take the tokens out of recorded answers."""
    header, *rows = gzip.decompress(path.read_bytes()).decode().splitlines()
    kept = {**json.loads(header), "probe_tokens": None}
    path.write_bytes(gzip.compress("\n".join([json.dumps(kept), *rows]).encode()))


def outcomes(project: Project) -> set[str]:
    run: Any = project.latest_run()
    return {record["outcome"] for record in run["records"]}


def test_a_stand_in_whose_evaluation_does_not_say_its_tokens_is_refused(project: Project) -> None:
    project.document(suite="embedded", models=("one",))
    say_nothing(project)
    result = project.run()
    result.assert_outcomes(errors=3)
    result.stdout.fnmatch_lines(["*is refused: environment: probe_tokens: missing; they show another tokenizer*"])


def test_a_stand_in_whose_recorded_answers_do_not_say_its_tokens_fails_with_the_remedy(project: Project) -> None:
    folder = project.document(suite="embedded", models=("one",))
    forget_tokens(folder / "one.answers.jsonl.gz")
    result = project.run()
    result.assert_outcomes(failed=3)
    assert outcomes(project) == {"COMPARISON_MISSING"}
    result.stdout.fnmatch_lines(["*it does not say which tokens a fixed text became*", "*restore it: git checkout*"])


def test_silence_on_both_sides_is_no_agreement_for_a_stand_in(project: Project) -> None:
    folder = project.document(suite="embedded", models=("one",))
    forget_tokens(folder / "one.answers.jsonl.gz")
    say_nothing(project)
    project.run().assert_outcomes(failed=3)
    assert outcomes(project) == {"COMPARISON_MISSING"}


def test_where_neither_of_two_runs_says_its_tokens_the_documents_are_compared(project: Project) -> None:
    """Some model classes make no tokens of a text."""
    project.document(models=("one",))
    say_nothing(project)
    options = "--scanproof-history=history", "--scanproof-strict"
    (project.root / "history").mkdir()
    project.run(*options)
    history = open_history(str(project.root / "history"))
    new_baseline.declare(history, history.find("latest"), "the first night")
    result = project.run(*options)
    result.assert_outcomes(passed=3)
    result.stdout.fnmatch_lines(["document by document: 3 numbers as in their baseline"])


@pytest.mark.parametrize("strict", [False, True])
def test_a_declared_run_that_does_not_say_its_tokens_is_not_compared_and_fails_under_strict(
    project: Project, strict: bool
) -> None:
    project.document(models=("one",))
    evidence = project.root / "evidence.py"
    text = evidence.read_text()
    say_nothing(project)
    (project.root / "history").mkdir()
    project.run("--scanproof-history=history", "--scanproof-strict").assert_outcomes(passed=3)
    history = open_history(str(project.root / "history"))
    new_baseline.declare(history, history.find("latest"), "the first night")
    evidence.write_text(text)
    result = project.run("--scanproof-history=history", *(["--scanproof-strict"] if strict else []))
    result.assert_outcomes(**{"failed" if strict else "passed": 3})
    assert outcomes(project) == {"COMPARISON_MISSING" if strict else "REPRODUCED"}
    result.stdout.fnmatch_lines([
        "*baseline*3 REFUSED", "3 numbers not compared with the run *: the baseline does not say which tokens *"
    ])  # fmt: skip


def test_tokens_that_one_side_lacks_are_neither_the_same_nor_others() -> None:
    assert compare_tokens("j", "b", [1], None) is None
    assert str(explain_absent_tokens([1], None)).startswith("this evaluation does not say which tokens")
    assert str(explain_absent_tokens(None, [1])).startswith("the baseline does not say which tokens")
    assert explain_absent_tokens([1], [2]) is explain_absent_tokens(None, None) is None
