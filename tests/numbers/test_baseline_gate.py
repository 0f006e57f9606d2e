"""The second gate on samples: what it catches, what it leaves alone, what it refuses."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest

from scanproof.numbers.values import Part
from scanproof.numbers.verdict import baseline_gate
from scanproof.numbers.verdict.answers import Samples, TaskSamples
from scanproof.numbers.verdict.baseline_gate import Baseline, TaskPair
from scanproof.numbers.verdict.paired_tests import ComparisonOutcome, PairedComparison
from scanproof.record import Evaluation
from tests.support.builders import CONSTANTS, JOB, published
from tests.support.small_history import ENVIRONMENT, evaluation, line, rows, task

VALUE = published(task="piqa", documents=400)
EVALUATION: Evaluation = evaluation({}, JOB, ENVIRONMENT)
"""Of a model whose rounding is not known: `ceiling` and `unbounded` of the baseline stay as they are given."""


def samples(*found: TaskSamples) -> Samples:
    return {(each.job, each.task): each for each in found}


def baseline(*found: TaskSamples, **changes: Any) -> Baseline:
    return Baseline(name="the run r", samples=samples(*found), **changes)


def judged(before: TaskSamples, now: TaskSamples, **changes: Any) -> PairedComparison:
    return baseline_gate.judge_number(VALUE, EVALUATION, samples(now), baseline(before, **changes), CONSTANTS)


def moved(documents: int, by: float) -> TaskSamples:
    return task([line(doc, right=doc < 300, lead=1 + by) for doc in range(documents)])


def test_the_same_answers_are_the_same() -> None:
    found = judged(task(rows(400, 300)), task(rows(400, 300)))
    assert found.outcome is ComparisonOutcome.SAME
    assert [test.name for test in found.tests] == ["flips", "margins"]
    assert [test.level for test in found.tests] == [CONSTANTS.second_level / 2] * 2


@pytest.mark.parametrize(("right", "outcome"), [(300, "SAME"), (281, "SAME"), (278, "CHANGED"), (322, "CHANGED")])
def test_documents_lost_or_gained_are_a_change(right: int, outcome: str) -> None:
    before, now = (task(rows(400, count, lead=1e-4)) for count in (300, right))
    found = judged(before, now)
    assert found.outcome.value == outcome
    assert found.tests[0].lost == max(0, 300 - right)
    assert found.tests[0].gained == max(0, right - 300)


def test_flips_that_cancel_are_noise() -> None:
    now = task([line(doc, right=15 <= doc < 315) for doc in range(400)])
    assert judged(task(rows(400, 300)), now).outcome is ComparisonOutcome.SAME


@pytest.mark.parametrize(("by", "outcome"), [(0.0015, "SAME"), (0.01, "CHANGED"), (-0.01, "CHANGED")])
def test_leads_that_all_move_one_way_are_a_change_before_any_answer_flips(by: float, outcome: str) -> None:
    """Each right answer leads by a little less, each wrong one trails by a little more; 0.002 nats are allowed."""
    now = task([line(doc, right=doc < 300, lead=1 + by if doc < 300 else 1 - by) for doc in range(400)])
    found = judged(task(rows(400, 300)), now)
    assert found.outcome.value == outcome
    assert found.tests[0].p_value == 1, "no document flipped"


def test_leads_that_move_either_way_are_noise() -> None:
    assert judged(moved(400, 0), task([
        line(doc, right=doc < 300, lead=1 + (0.05 if doc % 2 else -0.05)) for doc in range(400)
    ])).outcome is ComparisonOutcome.SAME  # fmt: skip


def test_where_rounding_has_a_ceiling_one_answer_beyond_it_is_a_change() -> None:
    before = task(rows(400, 300))
    now = task([line(doc, right=doc < 300, lead=1.002 if doc == 7 else 1) for doc in range(400)])
    assert judged(before, now).outcome is ComparisonOutcome.SAME
    found = judged(before, now, ceiling=1e-3)
    assert found.outcome is ComparisonOutcome.CHANGED
    assert "1 of 800 answers" in found.because


@pytest.mark.parametrize("ceiling", [None, 1e-3])
def test_an_answer_that_became_no_number_is_a_change(ceiling: float | None) -> None:
    broken = rows(400, 300)
    broken[7]["loglikelihoods"] = ["nan", -5.0]
    found = judged(task(rows(400, 300)), task(broken), ceiling=ceiling)
    assert found.outcome is ComparisonOutcome.CHANGED
    assert "1 of 800 answers are no finite number in one of the two" in found.because


@pytest.mark.parametrize(
    ("now", "said"),
    [
        (task(rows(399, 300)), "piqa: 399 documents were scored, 400 in the baseline"),
        (task(rows(400, 300, document="other")), "piqa: the documents differ"),
        (task(rows(400, 300, prompt="other")), "piqa: the prompts differ"),
        (task(rows(400, 300), name="arc_easy"), "this run kept no samples of piqa"),
        (replace(task(rows(400, 300)), metrics={}), "acc was not kept per document"),
        (replace(task(rows(400, 300)), loglikelihoods=((1.0,),) * 400), "the answers that were scored differ"),
    ],
)
def test_what_cannot_be_paired_is_refused_with_the_reason(now: TaskSamples, said: str) -> None:
    found = judged(task(rows(400, 300)), now)
    assert found.outcome is ComparisonOutcome.REFUSED
    assert said in found.because


def test_prompts_behind_the_first_and_choices_are_compared_by_their_content() -> None:
    """lm-eval's hash of a prompt covers the first one of a document alone, and no choice."""
    asked = task(rows(400, 300, question="q"))
    assert judged(asked, asked).outcome is ComparisonOutcome.SAME
    other = judged(asked, task(rows(400, 300, question="other")))
    assert "piqa: the answers to choose from differ" in other.because
    unknown = judged(task(rows(400, 300)), asked)
    assert "the baseline does not say which answers were to choose from" in unknown.because
    not_kept = judged(asked, task(rows(400, 300)))
    assert {found.outcome for found in (other, unknown, not_kept)} == {ComparisonOutcome.REFUSED}


def test_a_perplexity_is_compared_by_its_loglikelihoods() -> None:
    value = published(task="lambada_openai", metric="perplexity", printed="8.14", unit="raw", documents=300)

    def log(by: float) -> TaskSamples:
        lines = [{**line(doc, right=True), "loglikelihoods": [-4 - 0.01 * doc + by],
                  "metrics": {"perplexity": -4 - 0.01 * doc + by}} for doc in range(300)]  # fmt: skip
        return task(lines, name="lambada_openai")

    outcomes = [
        baseline_gate.judge_number(value, EVALUATION, samples(log(by)), baseline(log(0)), CONSTANTS).outcome.value
        for by in (0.0015, 0.004, -0.004)
    ]
    assert outcomes == ["SAME", "CHANGED", "CHANGED"]


def test_a_mass_is_compared_as_a_mass() -> None:
    value = published(task="truthfulqa_mc2", binary=False, documents=200)

    def log(by: float) -> TaskSamples:
        masses = [0.3 + 0.002 * doc + by for doc in range(200)]
        lines = [
            {**line(doc, right=True), "metrics": {"acc": mass}, "loglikelihoods": [math.log(mass), math.log(1 - mass)]}
            for doc, mass in enumerate(masses)
        ]
        return task(lines, name="truthfulqa_mc2")

    outcomes = [
        baseline_gate.judge_number(value, EVALUATION, samples(log(by)), baseline(log(0)), CONSTANTS).outcome.value
        for by in (0.0005, -0.005)
    ]
    assert outcomes == ["SAME", "CHANGED"]


@pytest.mark.parametrize("pooled", [True, False])
def test_a_number_made_of_several_tasks_is_compared_over_all_their_documents(pooled: bool) -> None:
    value = published(
        task="group", pooled=pooled, parts=(Part(task="a", metric="acc"), Part(task="b", metric="acc")), documents=800
    )
    before = [task(rows(400, 300), name=name) for name in "ab"]
    now = [task(rows(400, 286), name=name) for name in "ab"]
    found = baseline_gate.judge_number(value, EVALUATION, samples(*now), baseline(*before), CONSTANTS)
    assert found.outcome is ComparisonOutcome.CHANGED, "14 of each task are too few, 28 of both are not"
    one = baseline_gate.judge_number(value, EVALUATION, samples(now[0], before[1]), baseline(*before), CONSTANTS)
    assert one.tests[0].changed is False
    gone = baseline_gate.judge_number(value, EVALUATION, samples(now[0]), baseline(*before), CONSTANTS)
    assert "this run kept no samples of b" in gone.because


@pytest.mark.parametrize(
    ("right", "target", "answers", "score", "index"),
    [
        ((1,), 0, (-1.0, -2.0), 0.0, 1),
        ((2,), None, (-1.0, -2.0, -3.0), 0.0, 2),
        ((0, 1), 0, (-1.0, -2.0), 1.0, None),
        ((2,), 0, (-1.0, -2.0), 1.0, None),
        (None, None, (-1.0, -2.0), 1.0, 0),
        (None, None, (-1.0, -2.0), 0.0, 1),
        (None, None, (-1.0, -2.0, -3.0), 0.0, None),
        (None, 2, (-1.0, -2.0, -3.0), 0.0, 2),
        (None, 1, (-1.0, -2.0), 0.87, None),
    ],
)
def test_the_right_answer_is_what_was_kept_or_in_older_files_what_target_or_score_say(
    right: Any, target: int | None, answers: tuple[float, ...], score: float, index: int | None
) -> None:
    assert baseline_gate.find_right_answer(right, target, answers, score) == index


@pytest.mark.parametrize("kept_before", [True, False])
def test_margins_of_a_task_whose_target_is_a_word_follow_from_what_is_kept_as_right(kept_before: bool) -> None:
    """As pubmedqa with its three answers; the right answers of tonight are those of an older baseline, too."""

    def log(by: float, *, kept: bool) -> TaskSamples:
        extra = {"right": [0]} if kept else {}
        return task([
            {**line(doc, right=doc < 300), "target": None, "loglikelihoods": [-4.0 + by, -5.0, -6.0], **extra}
            for doc in range(400)
        ])  # fmt: skip

    comparison = judged(log(0, kept=kept_before), log(0.01, kept=True))
    assert [test.name for test in comparison.tests[:2]] == ["flips", "margins"]
    assert comparison.tests[1].changed
    assert [test.name for test in judged(log(0, kept=False), log(0.01, kept=False)).tests] == ["flips"]


def test_a_small_drop_spread_over_all_tasks_is_caught_together() -> None:
    """Four documents of 400 in each of ten tasks: no task shows it, the model does."""
    pairs = [
        TaskPair(task(rows(400, 300), name=str(index)), task(rows(400, 296), name=str(index))) for index in range(10)
    ]
    alone = [baseline_gate.judge_together("m", "r", [each], CONSTANTS.joint_level(1), 0.002) for each in pairs]
    assert not any(found.changed for found in alone)
    together = baseline_gate.judge_together("m", "r", pairs, CONSTANTS.joint_level(1), 0.002)
    assert together.changed
    assert "0 documents gained, 40 lost of 4000" in together.because


def test_a_model_without_anything_to_pair_is_refused() -> None:
    assert baseline_gate.judge_together("m", "r", [], 1e-6, 0.002).outcome is ComparisonOutcome.REFUSED


def test_the_shares_of_the_budget_add_up_to_the_promise() -> None:
    whole = (
        CONSTANTS.checks * (CONSTANTS.level + CONSTANTS.second_level)
        # Against a baseline, and against what was printed.
        + 2 * 100 * CONSTANTS.joint_level(100)
        + CONSTANTS.night_level
        + 1100 * CONSTANTS.drift_level(1100)
    )
    assert whole == pytest.approx(CONSTANTS.false_alarm_rate)
    assert 2 * 500 * CONSTANTS.joint_level(500) + CONSTANTS.night_level <= 0.1 * CONSTANTS.false_alarm_rate * (1 + 1e-9)


def test_jobs_are_paired_by_task_whatever_their_name() -> None:
    before = task(rows(400, 300), job="recorded")
    assert judged(before, task(rows(400, 300))).outcome is ComparisonOutcome.SAME
    assert JOB.name != "recorded"


def test_a_document_that_flips_although_no_answer_moved_is_a_change() -> None:
    """The other tests allow it: one of 400 documents may flip between two correct runs."""
    now = [line(doc, right=doc < 300) for doc in range(400)]
    now[7]["metrics"] = {"acc": 0.0}
    comparison = judged(task(rows(400, 300)), task(now))
    assert comparison.outcome is ComparisonOutcome.CHANGED
    assert "1 of 400 documents score otherwise, though their answers do not say so" in comparison.because
    assert "piqa document 7: acc 1 then, 0 now" in comparison.because


def test_a_document_that_flips_with_its_answers_is_noise() -> None:
    before = [line(doc, right=doc < 300, lead=1e-6) for doc in range(400)]
    now = [line(doc, right=doc < 299, lead=1e-6) for doc in range(400)]
    assert judged(task(before), task(now), ceiling=1e-4).outcome is ComparisonOutcome.SAME


@pytest.mark.parametrize(("by", "outcome"), [(0.0, "CHANGED"), (5e-5, "CHANGED"), (2e-4, "SAME")])
def test_a_greedy_answer_flips_only_where_it_moved_by_more_than_rounding(by: float, outcome: str) -> None:
    def log(by: float, *, greedy: bool) -> TaskSamples:
        lines = [{**line(doc, right=True), "loglikelihoods": [-2.0 - doc / 400]} for doc in range(400)]
        lines[7] |= {"loglikelihoods": [-2.0 + by], "is_greedy": [greedy], "metrics": {"acc": float(greedy)}}
        return task(lines)

    before = baseline(log(0.0, greedy=True), ceiling=1e-4)
    comparison = baseline_gate.judge_number(VALUE, EVALUATION, samples(log(by, greedy=False)), before, CONSTANTS)
    assert (comparison.tests[-1].name == "unexplained") == (outcome == "CHANGED")


def test_answers_that_are_nan_on_both_sides_are_the_same_answers() -> None:
    def broken(documents: int) -> TaskSamples:
        return replace(task(rows(documents, 300)), loglikelihoods=((float("nan"), float("nan")),) * documents)

    assert judged(broken(400), broken(400)).outcome is ComparisonOutcome.SAME
    assert judged(task(rows(400, 300)), broken(400)).outcome is ComparisonOutcome.CHANGED


@pytest.mark.parametrize("said", ["embedded", "gpu"])
@pytest.mark.parametrize("before", [None, "embedded", "gpu"])
def test_the_ceiling_of_rounding_holds_for_a_stand_in_whatever_its_evaluations_call_themselves(
    said: Any, before: Any
) -> None:
    """An answer that moved by 0.1 nats is within every other test."""
    job = replace(JOB, suite="embedded", dtype="float32", device="cpu")
    value = published(job=job, task="piqa", documents=400)
    of_hook = evaluation({}, replace(job, suite=said), {})
    of_baseline = before and evaluation({}, replace(job, suite=before), {})
    kept = baseline(task(rows(400, 300)), evaluation=of_baseline)
    now = task([line(doc, right=doc < 300, lead=1.1 if doc == 7 else 1) for doc in range(400)])
    comparison = baseline_gate.judge_number(value, of_hook, samples(now), kept, CONSTANTS)
    assert comparison.outcome is ComparisonOutcome.CHANGED
    assert "1 of 800 answers by more" in comparison.because
