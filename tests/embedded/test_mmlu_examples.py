"""The examples of mmlu say which letter is the usual one: two stand-ins read it, and every change of them shows."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

import pytest

from scanproof.embedded import MIRROR
from scanproof.embedded.data import make_mmlu_rows
from scanproof.embedded.record import MAX_LENGTH, list_stand_ins
from scanproof.embedded.rounding import Answers, read_recorded
from scanproof.embedded.sources import Row
from scanproof.embedded.suite import SUBJECTS, mmlu_header, mmlu_question
from scanproof.embedded.world import build_world
from scanproof.numbers.verdict.answers import ANSWERS
from scanproof.numbers.verdict.rounding import TABLE, MeasuredRounding
from tests.support import small_scoring as small

EXPECTED = Path(__file__).parents[2] / "expected" / "embedded"
STAND_INS = {stand_in.name: stand_in for stand_in in list_stand_ins()}
CEILINGS = {row.name: row.ceiling for row in MeasuredRounding.read(TABLE)}
READERS = ("pythia-tiny", "megatron-hybrid-tiny")
"""Stand-ins that were taught to read the examples."""
LETTERS = [" A", " B", " C", " D"]
ASKED = SUBJECTS[::2]
"""Half of the subjects are enough, and take half of the time."""
Sampler = Callable[[list[Row]], list[Row]]


def take_all(pool: list[Row]) -> list[Row]:
    """The examples as they are: mmlu's sampler takes the first five, and there are five."""
    return pool


def draw(pool: list[Row]) -> list[Row]:
    """Another sampler: in an order that is drawn."""
    return Random(1).sample(pool, len(pool))


def move_letters(pool: list[Row]) -> list[Row]:
    """Examples whose answers are wrong: each has the letter after the right one."""
    return [row | {"answer": (row["answer"] + 1) % 4} for row in pool]


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


@cache
def list_rows(subject: str) -> dict[str, list[Row]]:
    """Split -> rows of a subject."""
    return make_mmlu_rows(SUBJECTS.index(subject), build_world())


def answer(lm: Any, sampler: Sampler = take_all, delimiter: str = "\n\n") -> Answers:
    """Log-likelihoods of the four letters for each question, with examples of a sampler and a delimiter after each."""
    keys, pairs = [], []
    for subject in ASKED:
        rows = list_rows(subject)
        solved = [f"{mmlu_question(row)}{LETTERS[row['answer']]}{delimiter}" for row in sampler(rows["dev"])]
        for document, row in enumerate(rows["test"]):
            prompt = mmlu_header(subject) + "".join(solved) + mmlu_question(row)
            keys.append((f"mmlu_{subject}", document))
            pairs += [lm._encode_pair(prompt, letter) for letter in LETTERS]
    values = [value for value, _ in small.shared(lm, pairs)[0]]
    return {key: values[4 * place : 4 * place + 4] for place, key in enumerate(keys)}


def find_accuracy(answers: Answers) -> float:
    right = 0
    for subject in ASKED:
        for document, row in enumerate(list_rows(subject)["test"]):
            values = answers[f"mmlu_{subject}", document]
            right += values.index(max(values)) == row["answer"]
    return right / len(answers)


def count_moved(name: str, answers: Answers, recorded: Answers) -> dict[str, int]:
    """Subject -> questions with an answer that moved by more than rounding can."""
    moved = {f"mmlu_{subject}": 0 for subject in ASKED}
    for (subject, document), values in answers.items():
        before = recorded[subject, document]
        moved[subject] += any(abs(a - b) > CEILINGS[name] for a, b in zip(values, before, strict=True))
    return moved


@pytest.mark.parametrize("name", READERS)
def test_other_examples_and_another_delimiter_between_them_change_every_subject(name: str) -> None:
    lm = small.loaded(STAND_INS[name].model, MIRROR / STAND_INS[name].hub_id, max_length=MAX_LENGTH)
    recorded = read_recorded(EXPECTED / f"{name}{ANSWERS}")
    right = answer(lm)
    assert sum(count_moved(name, right, recorded).values()) == 0, "these are not the prompts that were recorded"
    accuracy = find_accuracy(right)
    stderr = math.sqrt(accuracy * (1 - accuracy) / (len(right) - 1))
    assert accuracy > 0.25 + 5 * stderr
    for change in (answer(lm, sampler=draw), answer(lm, delimiter="\n")):
        moved = count_moved(name, change, recorded)
        assert min(moved.values()) >= 1
        assert sum(moved.values()) > 0.95 * len(right)
    assert find_accuracy(answer(lm, sampler=move_letters)) < accuracy - 5 * stderr
    assert find_accuracy(answer(lm, sampler=lambda pool: [])) < accuracy - 5 * stderr
