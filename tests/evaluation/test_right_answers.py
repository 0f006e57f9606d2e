"""Which answers are right, read from documents as the datasets hold them; and how long answers are."""

from __future__ import annotations

from typing import Any

import pytest

from scanproof.evaluation.right_answers import RIGHT, find_right_answers, measure_answers
from scanproof.numbers.expected.tasks import load_tasks
from tests.support.small_project import EXPECTED

LABELS: dict[str, Any] = {"choices": {"label": ["A", "B", "C", "D"]}}


@pytest.mark.parametrize(
    ("task", "document", "right"),
    [
        ("arc_easy", {**LABELS, "answerKey": "C"}, [2]),
        ("arc_challenge", {"choices": {"label": ["1", "2", "3"]}, "answerKey": "3"}, [2]),
        ("openbookqa", {**LABELS, "answerKey": " B"}, [1]),
        ("boolq", {"label": 1}, [1]),
        ("hellaswag", {"label": "3"}, [3]),
        ("piqa", {"label": 0}, [0]),
        ("winogrande", {"answer": "2"}, [1]),
        ("pubmedqa", {"final_decision": "maybe"}, [2]),
        ("race", {"problems": "[{'answer': 'A'}, {'answer': 'D'}]"}, [3]),
        ("truthfulqa_mc2", {"mc2_targets": {"labels": [1, 0, 1, 0]}}, [0, 2]),
        ("mmlu_world_religions", {"answer": 3}, [3]),
    ],
)
def test_the_right_answer_is_read_from_the_document(task: str, document: dict[str, Any], right: list[int]) -> None:
    assert find_right_answers(task, {"doc": document, "target": "what lm-eval makes of it"}) == right


def test_every_task_with_answers_to_choose_from_has_a_rule() -> None:
    tasks = load_tasks(EXPECTED / "tasks.yaml")
    choosing = {name for name, info in tasks.items() if not info.members and (info.choices or not info.binary)}
    assert {"mmlu" if name.startswith("mmlu_") else name for name in choosing} == set(RIGHT)


@pytest.mark.parametrize("document", [{}, {"label": None}, {"label": "yes"}])
def test_a_document_of_another_form_says_nothing(document: dict[str, Any]) -> None:
    assert find_right_answers("piqa", {"doc": document, "target": 1}) is None


@pytest.mark.parametrize(("target", "right"), [(2, [2]), (" word", None)])
def test_a_task_that_is_not_known_has_lm_evals_target(target: object, right: list[int] | None) -> None:
    assert find_right_answers("sciq", {"doc": {}, "target": target}) == right


def test_lengths_are_of_characters_and_without_the_delimiter() -> None:
    assert measure_answers([("Q", " déjà"), ("Q", "  two words")], " ") == [4, 10]
    assert measure_answers([("Q", "a"), ("Q", " b")], "") == [1, 2]


def test_answers_that_stand_in_the_prompt_have_no_length() -> None:
    assert measure_answers([("He", " ran"), ("She", " ran")], " ") is None
    assert measure_answers([("a whole text",)], " ") is None
