"""What the summary of a session says beside its table: another tokenizer, numbers that cannot fail in a direction."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.support.small_project import Project

TOKENS = "PROBE_TOKENS = [5, 6, 7]"


@pytest.mark.parametrize(
    ("tokens", "became"),
    [("[0, 5, 6, 7]", "4 tokens, 0 5 6 7; it was 5 6 7"), ("[5, 9, 7]", "3 tokens, 5 9 7; it was 5 6 7")],
    ids=["a BOS", "a tokenizer"],
)
def test_another_tokenizer_or_bos_is_a_finding_although_every_number_is_the_same(
    project: Project, tokens: str, became: str
) -> None:
    project.document(suite="embedded", models=("one",))
    assert project.run().ret == pytest.ExitCode.OK
    evidence = project.root / "evidence.py"
    assert TOKENS in evidence.read_text()
    evidence.write_text(evidence.read_text().replace(TOKENS, f"PROBE_TOKENS = {tokens}"))
    result = project.run()
    result.assert_outcomes(passed=3)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    said = [line for line in result.stdout.str().splitlines() if "the tokenizer or BOS changed since" in line]
    assert len(said) == 1, "once for the job, not for each number"
    assert became in said[0]
    run: Any = project.latest_run()
    (finding,) = [each for each in run["joint"] if each["outcome"] == "CHANGED"]
    assert finding["subject"].startswith("tokens of ")


def test_the_same_tokens_are_no_finding(project: Project) -> None:
    project.document(suite="embedded", models=("one",))
    result = project.run()
    assert result.ret == pytest.ExitCode.OK
    result.stdout.no_fnmatch_line("*tokenizer or BOS*")
    run: Any = project.latest_run()
    assert [each for each in run["joint"] if each["outcome"] == "CHANGED"] == []


def test_a_number_that_cannot_fail_in_a_direction_is_counted_in_the_summary(project: Project) -> None:
    """10.0 of 20 documents: what is allowed reaches below zero, so that no measurement is too low."""
    folder = project.document(models=("one",), numbers=4)
    path = folder / "one.yaml"
    row = '  - {task: piqa, metric: acc, line: 9, origin: author, printed: "10.0", unit: percent, documents: 20}\n'
    path.write_text(path.read_text() + row)
    answers = json.loads((project.root / "answers.json").read_text())
    project.answer([*answers, ["piqa", "acc", 0.10, 20]])
    result = project.run()
    result.assert_outcomes(passed=4)
    result.stdout.fnmatch_lines(["cannot be too low: 1 of 4 numbers, such as one-piqa-acc-author (*list* marks them)"])
    result.stdout.no_fnmatch_line("cannot be too high*")
