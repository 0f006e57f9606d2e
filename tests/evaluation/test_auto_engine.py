"""`auto`: when plain measures a job again, and what its evaluation records about the shared engine."""

from __future__ import annotations

from dataclasses import replace
from typing import get_args

import pytest

from scanproof.errors import EvaluationError, FailureKind
from scanproof.evaluation.auto_engine import ENGINES_OWN, AutoEngine, explain_replacement
from scanproof.files import from_json, to_json
from scanproof.numbers.values import EvalJob, PublishedValue
from scanproof.numbers.verdict.engines import NO_SPOT, EngineName, Scoring, SpotCheck
from scanproof.numbers.verdict.measurement import Measurement
from scanproof.numbers.verdict.outcome import Outcome
from scanproof.numbers.verdict.tolerance import Verdict
from scanproof.record import Evaluation
from tests.support.builders import JOB, published

VALUE, OTHER = published(task="piqa"), published(task="openbookqa")
FAILS = [Outcome.OUT_OF_TOLERANCE, Outcome.CHANGED]


class Engines:
    """Stands for both engines; the key of an evaluation is the name of the engine that made it."""

    def __init__(
        self,
        error: EvaluationError | None = None,
        scored_by: EngineName | None = None,
        spot: SpotCheck | None = None,
        notes: tuple[str, ...] = (),
    ) -> None:
        self.error = error
        self.notes = notes
        self.scored_by = scored_by
        self.spot = spot
        self.asked: list[EngineName] = []

    def __call__(self, job: EvalJob, engine: EngineName) -> Evaluation:
        self.asked.append(engine)
        if engine == "shared" and self.error is not None:
            raise self.error
        measured = Measurement(task="piqa", metric="acc", value=0.1, stderr=None, n_samples=10)
        return Evaluation(
            job=job, key=engine, measurements=(measured,), samples=engine, command="lm_eval",
            engine=self.scored_by or engine, scoring=scoring(self.spot, self.notes) if engine == "shared" else None,
        )  # fmt: skip


def scoring(spot: SpotCheck | None, notes: tuple[str, ...]) -> Scoring:
    return Scoring(
        plain_tokens=9, distinct_tokens=4, tokens=4, padding=0, scored_positions=3, peak_state_bytes=8, spot=spot,
        notes=notes,
    )  # fmt: skip


def judge(outcome: Outcome, measured: float | None = 0.1) -> Verdict:
    return Verdict(outcome, 0.5, measured, None, None, None, None, "because")


def measured_by(by: Engines, outcomes: dict[str, Verdict]) -> Evaluation:
    def judged(value: PublishedValue, evaluation: Evaluation) -> Verdict:
        return outcomes[value.id]

    return AutoEngine(by, judged, [VALUE, OTHER])(replace(JOB, kernels=()))


@pytest.mark.parametrize("outcome", Outcome)
def test_plain_measures_what_fails_and_nothing_else(outcome: Outcome) -> None:
    by = Engines()
    found = measured_by(by, {VALUE.id: judge(outcome), OTHER.id: judge(Outcome.REPRODUCED)})
    if outcome not in FAILS:
        assert (found.key, found.replaced, by.asked) == ("shared", None, ["shared"])
        return
    assert (found.key, by.asked) == ("plain", ["shared", "plain"])
    assert found.replaced is not None
    assert found.replaced.because == {VALUE.id: f"{outcome.value}: because"}
    assert (found.replaced.key, found.replaced.samples) == ("shared", "shared")
    assert found.replaced.measurements == found.measurements


def test_what_is_no_number_may_be_the_engines_fault_and_another_number_of_documents_is_not() -> None:
    for measured, asked in ((None, ["shared", "plain"]), (0.4, ["shared"])):
        by = Engines()
        measured_by(by, {VALUE.id: judge(Outcome.ERROR, measured), OTHER.id: judge(Outcome.REPRODUCED)})
        assert by.asked == asked


def test_several_failures_of_a_job_are_one_evaluation_by_plain() -> None:
    by = Engines()
    found = measured_by(by, {VALUE.id: judge(Outcome.CHANGED), OTHER.id: judge(Outcome.OUT_OF_TOLERANCE)})
    assert by.asked == ["shared", "plain"]
    assert found.replaced is not None
    assert found.replaced.because.keys() == {VALUE.id, OTHER.id}


def test_whoever_scored_plain_all_the_same_is_not_asked_again() -> None:
    by = Engines(scored_by="plain")
    found = measured_by(by, dict.fromkeys([VALUE.id, OTHER.id], judge(Outcome.OUT_OF_TOLERANCE)))
    assert (found.replaced, by.asked) == (None, ["shared"])


@pytest.mark.parametrize("kind", get_args(FailureKind))
def test_only_an_error_that_the_engine_may_have_made_is_tried_by_plain(kind: FailureKind) -> None:
    by = Engines(EvaluationError(kind, "it broke"))
    passing = dict.fromkeys([VALUE.id, OTHER.id], judge(Outcome.REPRODUCED))
    if kind not in ENGINES_OWN:
        with pytest.raises(EvaluationError, match="it broke"):
            measured_by(by, passing)
        assert by.asked == ["shared"]
        return
    found = measured_by(by, passing)
    assert found.replaced is not None
    assert (found.replaced.error, found.replaced.samples) == (f"{kind}: it broke", None)


def test_a_job_whose_kernels_the_shared_engine_did_not_launch_is_left_to_plain() -> None:
    by = Engines()
    passing = dict.fromkeys([VALUE.id, OTHER.id], judge(Outcome.REPRODUCED))
    found = AutoEngine(by, lambda value, _: passing[value.id], [VALUE, OTHER])(replace(JOB, kernels=("a_kernel",)))
    assert by.asked == ["shared", "plain"]
    assert found.replaced is not None
    assert (found.replaced.error or "").startswith("fallback: ")


@pytest.mark.parametrize(("notes", "again"), [((NO_SPOT,), True), (("out of memory with 64 rows",), False)])
def test_a_job_whose_requests_plain_had_no_memory_to_score_is_measured_again(
    notes: tuple[str, ...], again: bool
) -> None:
    """On every night of a large model nothing would hold the shared engine to another one."""
    by = Engines(notes=notes)
    found = measured_by(by, dict.fromkeys([VALUE.id, OTHER.id], judge(Outcome.REPRODUCED)))
    assert by.asked == (["shared", "plain"] if again else ["shared"])
    assert (found.replaced is not None and explain_replacement(found.replaced) == NO_SPOT) == again


@pytest.mark.parametrize(("plain", "again"), [(-2.0, True), (-1.0005, False), (None, True)])
def test_a_request_that_plain_scores_otherwise_is_enough_to_measure_the_job_again(
    plain: float | None, again: bool
) -> None:
    by = Engines(spot=SpotCheck(requests=8, shared=-1.0, plain=plain, allowed=1e-3))
    found = measured_by(by, dict.fromkeys([VALUE.id, OTHER.id], judge(Outcome.REPRODUCED)))
    assert by.asked == (["shared", "plain"] if again else ["shared"])
    assert from_json(Evaluation, to_json(found)) == found
    if again:
        assert found.replaced is not None
        assert found.replaced.because == {}
        assert explain_replacement(found.replaced).startswith(
            "of 8 requests that plain scored as well, one got -1 by shared and "
        )
