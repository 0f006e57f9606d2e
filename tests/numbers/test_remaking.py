"""A number has to be made of its answers: its documents' scores, its aggregate, its standard error, its group."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest

from scanproof.numbers.values import Part, PublishedValue
from scanproof.numbers.verdict.answer_gate import judge_answers
from scanproof.numbers.verdict.answers import TaskSamples
from scanproof.numbers.verdict.measurement import Measurement
from scanproof.numbers.verdict.outcome import Outcome
from scanproof.numbers.verdict.remaking import explain_other_expectation, explain_other_scores
from scanproof.numbers.verdict.scores import MissingEvidenceError, find_aggregate, find_stderr
from tests.support import small_history
from tests.support.builders import published
from tests.support.small_history import rows, task

VALUE = published(task="piqa", documents=400)
GROUP = published(
    task="both", documents=500, parts=(Part(task="piqa", metric="acc"), Part(task="boolq", metric="acc")), pooled=True
)


def measured(name: str, *tasks: TaskSamples, **changes: Any) -> Measurement:
    """What lm-eval measures of these documents."""
    groups = [[score or 0.0 for score in each.metrics["acc"]] for each in tasks]
    scores = [score for group in groups for score in group]
    made = Measurement(
        task=name, metric="acc", value=find_aggregate(scores, "acc"), stderr=find_stderr(groups), n_samples=len(scores)
    )
    return replace(made, **changes)


PIQA = task(rows(400, 338))
BOOLQ = task(rows(100, 20), name="boolq")
BOTH = {"piqa": PIQA, "boolq": BOOLQ}


def test_a_number_that_is_made_of_its_answers_is_one() -> None:
    assert explain_other_scores(VALUE, [measured("piqa", PIQA)], BOTH) is None
    measurements = [measured("piqa", PIQA), measured("boolq", BOOLQ), measured("both", PIQA, BOOLQ)]
    assert explain_other_scores(GROUP, measurements, BOTH) is None
    assert explain_other_scores(GROUP, measurements[:2], BOTH) is None, "lm-eval knows no group of this name"


def test_a_document_that_is_scored_otherwise_is_named_with_both_values() -> None:
    lines = rows(400, 338)
    for place in (17, 18, 399):
        lines[place]["metrics"]["acc"] = 1.0 - lines[place]["metrics"]["acc"]
    told = explain_other_scores(VALUE, [measured("piqa", task(lines))], {"piqa": task(lines)})
    assert told == (
        "piqa document 17: acc is 0 in the evaluation, 1 made again from its answers (3 of 400 documents differ)"
    )


def test_a_mean_over_other_documents_is_named_with_both_values() -> None:
    told = explain_other_scores(VALUE, [measured("piqa", PIQA, value=0.8493)], BOTH)
    assert told == "piqa acc: 0.8493 in the evaluation, its 400 documents make 0.845"


@pytest.mark.parametrize("by", [1e-9, -1e-9])
def test_a_difference_beyond_rounding_is_one(by: float) -> None:
    assert explain_other_scores(VALUE, [measured("piqa", PIQA, value=0.845 + by)], BOTH) is not None
    assert explain_other_scores(VALUE, [measured("piqa", PIQA, value=0.845 + by / 1e6)], BOTH) is None


def test_a_group_that_weighs_its_tasks_otherwise_is_named() -> None:
    plain_mean = (338 / 400 + 20 / 100) / 2
    told = explain_other_scores(
        GROUP, [measured("piqa", PIQA), measured("boolq", BOOLQ), measured("both", PIQA, BOOLQ, value=plain_mean)], BOTH
    )
    assert told == "both acc: 0.5225 in the evaluation, its 500 documents of 2 tasks make 0.716"


def test_another_standard_error_is_named() -> None:
    told = explain_other_scores(VALUE, [measured("piqa", PIQA, stderr=0.02)], BOTH)
    assert told is not None
    assert told.startswith("piqa acc, standard error: 0.02 in the evaluation, its documents make 0.018")
    assert explain_other_scores(VALUE, [measured("piqa", PIQA, stderr=None)], BOTH) is None


def test_answers_to_other_documents_than_were_counted_are_named() -> None:
    told = explain_other_scores(VALUE, [measured("piqa", PIQA, n_samples=401)], BOTH)
    assert told == "piqa acc: the evaluation counts 401 documents, the answers to 400 are kept"


@pytest.mark.parametrize(
    ("places", "said"),
    [
        ([0, 1, 1, 2], "document 1 is there twice"),
        ([0, 1, 3], "document 2 is missing"),
        ([0, 2, 2], "document 2 is there twice and document 1 is missing"),
    ],
)
def test_a_document_that_is_missing_or_there_twice_is_named(places: list[int], said: str) -> None:
    lines = rows(4, 2)
    kept = task([lines[place] for place in places])
    told = explain_other_scores(VALUE, [measured("piqa", kept)], {"piqa": kept})
    assert told == f"piqa: {said} among the answers to {len(places)} documents"


def test_answers_that_were_not_kept_are_missing_and_no_agreement() -> None:
    with pytest.raises(MissingEvidenceError, match="the answers to boolq were not kept"):
        explain_other_scores(GROUP, [], {"piqa": PIQA})
    with pytest.raises(MissingEvidenceError, match="the answers to piqa were not kept"):
        explain_other_scores(VALUE, [], {"piqa": task([])})
    without_scores = replace(PIQA, metrics={})
    with pytest.raises(MissingEvidenceError, match="the acc of each document was not kept"):
        explain_other_scores(VALUE, [measured("piqa", PIQA)], {"piqa": without_scores})


LESS = [
    {"piqa": replace(PIQA, right=(None,) * 400), "boolq": BOOLQ},
    {"piqa": replace(PIQA, metrics={}), "boolq": BOOLQ},
    {"boolq": BOOLQ},
]
"""Both tasks without something of the first one that its scores would be made from."""


@pytest.mark.parametrize("kept", LESS)
@pytest.mark.parametrize("pooled", [True, False])
def test_what_is_missing_of_one_task_does_not_hide_that_another_differs(
    kept: dict[str, TaskSamples], pooled: bool
) -> None:
    value = replace(GROUP, pooled=pooled)
    made = [measured("piqa", PIQA), measured("boolq", BOOLQ)]
    with pytest.raises(MissingEvidenceError, match="piqa"):
        explain_other_scores(value, made, kept)
    told = explain_other_scores(value, [made[0], replace(made[1], value=0.3)], kept)
    assert told == "boolq acc: 0.3 in the evaluation, its 100 documents make 0.2"


def test_what_is_missing_does_not_hide_other_documents_or_another_mean_of_the_same_task() -> None:
    without_right = replace(task(rows(401, 338)[1:]), right=(None,) * 400)
    told = explain_other_scores(VALUE, [measured("piqa", PIQA)], {"piqa": without_right})
    assert told is not None
    assert "document 0 is missing" in told
    counted = measured("piqa", PIQA, n_samples=401)
    told = explain_other_scores(VALUE, [counted], {"piqa": replace(PIQA, right=(None,) * 400)})
    assert told == "piqa acc: the evaluation counts 401 documents, the answers to 400 are kept"
    told = explain_other_scores(VALUE, [measured("piqa", PIQA, value=0.8)], {"piqa": replace(PIQA, metrics={})})
    assert told == "piqa acc: 0.8 in the evaluation, its 400 documents make 0.845"


def test_answers_that_are_none_are_rejected_although_those_of_another_task_were_not_kept() -> None:
    broken = replace(BOOLQ, loglikelihoods=((math.nan, -5.0), *BOOLQ.loglikelihoods[1:]))
    evaluation = small_history.evaluation({"boolq": rows(100, 20)}, GROUP.job, {})
    verdict = judge_answers(GROUP, evaluation, {(GROUP.job.name, "boolq"): broken})
    assert verdict is not None
    assert verdict.outcome is Outcome.ERROR
    assert "boolq 0" in verdict.because


def test_the_standard_error_of_a_perplexity_is_the_bootstraps_within_its_noise() -> None:
    value = published(task="lambada_openai", metric="perplexity", documents=200)
    lines = [
        {**line, "loglikelihoods": [-1.0 - place / 50], "metrics": {"perplexity": -1.0 - place / 50}}
        for place, line in enumerate(rows(200, 100))
    ]
    kept = task(lines, name="lambada_openai")
    scores = [answers[0] for answers in kept.loglikelihoods]
    number = find_aggregate(scores, "perplexity")
    stderr = number * (find_stderr([scores]) or 0.0)
    made = Measurement(task="lambada_openai", metric="perplexity", value=number, stderr=stderr * 1.05, n_samples=200)
    assert explain_other_scores(value, [made], {"lambada_openai": kept}) is None
    for changed in (replace(made, stderr=stderr * 2), replace(made, value=number * (1 + 1e-9))):
        assert "lambada_openai perplexity" in (explain_other_scores(value, [changed], {"lambada_openai": kept}) or "")


RECORDED = published(task="piqa", documents=400, origin="embedded", printed="0.8450", file="e/one.yaml", file_line=7)
MEAN = replace(GROUP, origin="embedded", printed="0.5225", pooled=False)


@pytest.mark.parametrize(
    ("value", "recorded"),
    [(RECORDED, BOTH), (replace(GROUP, origin="embedded", printed="0.7160"), BOTH), (MEAN, BOTH)],
    ids=["task", "group", "mean"],
)
def test_an_expected_number_is_made_of_the_answers_that_were_recorded_with_it(
    value: PublishedValue, recorded: dict[str, TaskSamples]
) -> None:
    assert explain_other_expectation(value, recorded) is None
    for by in (-1e-4, 1e-4):
        assert explain_other_expectation(replace(value, printed=f"{value.expected + by:.4f}"), recorded) is not None


@pytest.mark.parametrize("printed", ["0.8451", "0.8449", "0.8", "1", "0.8475"])
def test_an_edited_expected_number_is_named_with_file_key_and_both_values(printed: str) -> None:
    told = explain_other_expectation(replace(RECORDED, printed=printed), BOTH)
    assert told == (
        f"e/one.yaml:7: printed: {printed} is expected of piqa acc, but the answers recorded with it make 0.845"
    )


def test_an_expected_perplexity_is_made_of_its_log_likelihoods() -> None:
    lines = rows(3, 3)
    for line, answer in zip(lines, (-1.0, -2.0, -3.0), strict=True):
        line.update(loglikelihoods=[answer], is_greedy=[True], right=None, lengths=None)
        line["metrics"] = {"acc": 1.0, "perplexity": answer}
    value = replace(RECORDED, metric="perplexity", unit="raw", printed="7.3891", documents=3)
    assert explain_other_expectation(value, {"piqa": task(lines)}) is None
    assert explain_other_expectation(replace(value, printed="7.3890"), {"piqa": task(lines)}) is not None


def test_an_expected_number_whose_answers_are_not_recorded_is_not_taken_for_made_again() -> None:
    with pytest.raises(MissingEvidenceError, match="the answers to boolq were not kept"):
        explain_other_expectation(GROUP, {"piqa": PIQA})
