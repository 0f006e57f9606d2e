"""How far documents moved from answers that do not say themselves which of them are right."""

from __future__ import annotations

from dataclasses import replace

from scanproof.triage.checks.numerics import documents_of
from scanproof.triage.evidence import TaskAnswers
from scanproof.triage.moves import Task
from tests.support.small_history import line, task

THREE = [{**line(doc, right=True), "target": None, "loglikelihoods": [-6.0, -4.0, -5.0]} for doc in range(2)]
"""Documents with three answers and no index for a target, as TruthfulQA has them."""


def test_margins_are_those_of_the_answers_that_are_right_today() -> None:
    before = task(THREE)
    now = replace(task(THREE), right=((1,), (1,)), loglikelihoods=((-6.0, -3.75, -5.0),) * 2)
    moved = documents_of(Task("piqa", "acc", TaskAnswers(samples=before), TaskAnswers(samples=now)))
    assert [(each.margin, each.moved) for each in moved] == [(1.0, 0.25), (1.0, 0.25)]


def test_margins_are_not_known_where_nothing_says_what_is_right() -> None:
    before = task(THREE)
    moved = documents_of(Task("piqa", "acc", TaskAnswers(samples=before), TaskAnswers(samples=before)))
    assert [(each.margin, each.moved) for each in moved] == [(None, None)] * 2
