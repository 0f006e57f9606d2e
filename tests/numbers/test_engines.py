"""One number by both engines: whose verdict counts, when they disagree, and what is said of it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from scanproof import files
from scanproof.history import compare
from scanproof.history.second_gate import SecondGate
from scanproof.numbers.expected.reader import Expected, load
from scanproof.numbers.values import PublishedValue
from scanproof.numbers.verdict import all_gates
from scanproof.numbers.verdict.baseline_gate import Baseline
from scanproof.numbers.verdict.engines import DISAGREE, EngineDifference, Engines, SpotCheck
from scanproof.numbers.verdict.measurement import Measurement
from scanproof.numbers.verdict.outcome import Outcome
from scanproof.numbers.verdict.paired_tests import ComparisonOutcome, PairedComparison, refuse
from scanproof.numbers.verdict.tolerance import Verdict
from scanproof.record import Evaluation, Replaced, read_run
from tests.support.builders import published
from tests.support.small_history import STRICT_JOB, evaluation, line, make_run, rows

PASSING = [Outcome.REPRODUCED, Outcome.KNOWN_DISCREPANCY, Outcome.NOT_COMPARABLE]
STAND_IN = replace(STRICT_JOB, device="cpu", dtype="float32", suite="embedded")
VALUE = published(task="piqa", job=STRICT_JOB, documents=400)


@pytest.fixture(scope="module")
def expected() -> Expected:
    return load(Path(__file__).parents[2] / "expected")


def log(folder: Path, answers: list[dict[str, object]]) -> str:
    folder.mkdir()
    (folder / "piqa.jsonl").write_text("".join(json.dumps(row) + "\n" for row in answers))
    return str(folder)


def both(expected: Expected, folder: Path, shared: list[dict[str, object]], value: PublishedValue = VALUE) -> Engines:
    """The comparison of answers by the shared engine with 300 of 400 right answers by plain."""
    plain = rows(400, 300)
    made: Evaluation = evaluation({"piqa": plain}, value.job, {})
    right = sum(row["metrics"]["acc"] for row in shared) / 400  # type: ignore[index]
    measured = Measurement(task="piqa", metric="acc", value=right, stderr=None, n_samples=400)
    replaced = Replaced(
        because={VALUE.id: "OUT_OF_TOLERANCE: too low"},
        measurements=(measured,),
        samples=log(folder / "shared", shared),
    )
    made = replace(made, samples=log(folder / "plain", plain), replaced=replaced)
    found = SecondGate(expected, None).engines(value, made)
    assert found is not None
    return found


def test_answers_that_are_the_same_agree(expected: Expected, tmp_path: Path) -> None:
    found = both(expected, tmp_path, rows(400, 300))
    assert (found.agree, found.disagree, found.apart) == (True, False, ())
    assert found.lines()[:2] == (
        "shared measured 0.75, plain 0.75", "measured again because OUT_OF_TOLERANCE: too low",
    )  # fmt: skip


def test_documents_lost_by_the_shared_engine_disagree_and_are_named(expected: Expected, tmp_path: Path) -> None:
    found = both(expected, tmp_path, rows(400, 260))
    assert found.disagree
    assert (found.shared, found.plain) == (0.65, 0.75)
    assert [each.doc_id for each in found.apart] == [260, 261, 262, 263, 264, 265, 266, 267]
    assert "shared against plain, flips: 0 documents gained, 40 lost of 400" in "\n".join(found.lines())
    assert str(found.apart[0]) == "piqa document 260: -2 nats, shared minus plain; 0 by shared, 1 by plain"


def test_flips_that_cancel_are_noise_on_a_gpu_and_impossible_for_a_stand_in(expected: Expected, tmp_path: Path) -> None:
    shared = [line(doc, right=15 <= doc < 315) for doc in range(400)]
    assert both(expected, tmp_path, shared).agree
    value = replace(VALUE, job=STAND_IN)
    (tmp_path / "cpu").mkdir()
    assert both(expected, tmp_path / "cpu", shared, value).disagree


def test_an_answer_that_is_no_number_disagrees_and_hides_nothing(expected: Expected, tmp_path: Path) -> None:
    """One NaN would make every test of the answers blind."""
    shared = rows(400, 300)
    shared[7]["loglikelihoods"] = ["nan", -5.0]
    found = both(expected, tmp_path, shared)
    assert found.disagree
    assert "1 of 800 answers are no finite number" in "\n".join(found.lines())
    assert str(found.apart[0]) == "piqa document 7: no number on one side"
    verdict = Verdict(Outcome.REPRODUCED, 0.5, 0.5, 0.0, None, None, None, "", engines=found)
    assert files.from_json(Verdict, files.to_json(verdict)) == verdict


def test_answers_that_are_gone_are_refused_and_neither_agree_nor_disagree(expected: Expected, tmp_path: Path) -> None:
    made: Evaluation = evaluation({"piqa": rows(400, 300)}, STRICT_JOB, {})
    replaced = Replaced(because={VALUE.id: "CHANGED: moved"}, samples=str(tmp_path / "nowhere"))
    made = replace(made, samples=log(tmp_path / "plain", rows(400, 300)), replaced=replaced)
    found = SecondGate(expected, None).engines(VALUE, made)
    assert found is not None
    assert (found.agree, found.disagree, found.shared) == (False, False, None)
    assert found.finding is not None
    assert found.finding.because in found.lines()


def test_answers_that_were_not_kept_are_no_agreement(expected: Expected, tmp_path: Path) -> None:
    made: Evaluation = evaluation({"piqa": rows(400, 300)}, STRICT_JOB, {})
    made = replace(made, samples=log(tmp_path / "plain", rows(400, 300)), replaced=Replaced(because={VALUE.id: "why"}))
    found = SecondGate(expected, None).engines(VALUE, made)
    assert found is not None
    assert found.why_unknown is not None
    assert "were not kept" in found.why_unknown
    fallback = replace(made, replaced=Replaced(because={}, error="fallback: rotary_kernel was not launched"))
    found = SecondGate(expected, None).engines(VALUE, fallback)
    assert found is not None
    assert found.why_unknown is None


def finding(outcome: ComparisonOutcome) -> PairedComparison:
    return PairedComparison(subject="n", outcome=outcome, baseline="plain", because="why")


@pytest.mark.parametrize("outcome", Outcome)
@pytest.mark.parametrize("compared", [*ComparisonOutcome, None])
def test_plains_verdict_counts_and_a_disagreement_fails_what_would_pass(
    outcome: Outcome, compared: ComparisonOutcome | None
) -> None:
    verdict = Verdict(outcome, 0.5, 0.5, 0.0, None, None, None, "because")
    engines = Engines(shared=0.4, plain=0.5, because="CHANGED: moved", finding=finding(compared) if compared else None)
    found = all_gates.with_engines(verdict, engines)
    assert found.engines is engines
    if compared is ComparisonOutcome.CHANGED and outcome in PASSING:
        assert found.outcome is Outcome.ENGINES_DISAGREE
        assert found.because.startswith(f"{DISAGREE}; shared measured 0.4, plain 0.5; ")
    else:
        assert (found.outcome, found.because) == (outcome, "because")


@pytest.mark.parametrize("outcome", Outcome)
@pytest.mark.parametrize(
    ("compared", "broke"),
    [(None, "worker: it broke"), (ComparisonOutcome.REFUSED, None), (ComparisonOutcome.SAME, None), (None, None)],
)
@pytest.mark.parametrize("due", [True, False])
def test_what_is_not_known_of_the_engines_fails_where_their_comparison_is_due(
    outcome: Outcome, compared: ComparisonOutcome | None, broke: str | None, due: bool
) -> None:
    verdict = Verdict(outcome, 0.5, 0.5, 0.0, None, None, None, "because")
    engines = Engines(
        shared=None, plain=0.5, because="it broke", finding=finding(compared) if compared else None, broke=broke
    )
    unknown = broke is not None or compared is ComparisonOutcome.REFUSED
    found = all_gates.with_engines(verdict, engines, due=due)
    fails = due and unknown and outcome in PASSING
    assert found.outcome is (Outcome.ERROR if fails else outcome)


@pytest.mark.parametrize("compared", [*ComparisonOutcome, None])
@pytest.mark.parametrize(("plain", "far"), [(-1.007, False), (-1.009, True), (None, True)])
def test_a_request_that_is_far_off_is_a_disagreement(
    compared: ComparisonOutcome | None, plain: float | None, far: bool
) -> None:
    spot = SpotCheck(requests=8, shared=-1.0, plain=plain, allowed=0.001)
    engines = Engines(
        shared=0.5, plain=0.5, because="CHANGED: x", finding=finding(compared) if compared else None, spot=spot
    )
    assert engines.disagree is (far or compared is ComparisonOutcome.CHANGED)
    assert (str(spot) in engines.lines()) is far


def test_a_number_that_one_engine_measured_stays_as_it_is() -> None:
    verdict = Verdict(Outcome.REPRODUCED, 0.5, 0.5, 0.0, None, None, None, "because")
    assert all_gates.with_engines(verdict, None) is verdict


def test_a_score_that_was_not_kept_is_said() -> None:
    apart = EngineDifference(task="piqa", doc_id=3, nats=0.25, shared=None, plain=1.0)
    assert str(apart) == "piqa document 3: +0.25 nats, shared minus plain; nothing by shared, 1 by plain"


@pytest.mark.parametrize(
    ("engine", "name"), [("plain", "the run r"), ("shared", "the run r (scored by plain, this by shared)")]
)
def test_a_baseline_by_the_other_engine_is_compared_and_said(engine: str, name: str) -> None:
    baseline = Baseline(name="the run r", samples={}, engine="plain")
    assert baseline.named_for(engine).name == name  # type: ignore[arg-type]
    recorded = replace(baseline, engine=None)
    assert recorded.named_for(engine) is recorded  # type: ignore[arg-type]


def test_two_runs_by_different_engines_are_compared_and_both_are_named(tmp_path: Path, expected: Expected) -> None:
    old, new = (read_run(make_run(tmp_path, f"2026010{day}T010000Z-a")) for day in (1, 2))
    new = replace(new, evaluations=tuple(replace(each, engine="shared") for each in new.evaluations))
    first, second = (compare.from_store(run, tmp_path / "runs" / run.id) for run in (old, new))
    (row,) = compare.numbers(first, second, [replace(VALUE, job=new.evaluations[0].job)], expected.constants)
    assert row["compared"] == "SAME"
    assert "(scored by plain, this by shared)" in row["because"]
    assert {"what": "engine", "before": "plain", "now": "shared"}.items() <= compare.environments(old, new)[0].items()


def test_a_comparison_that_was_refused_is_no_agreement() -> None:
    engines = Engines(shared=None, plain=0.5, because="b", finding=refuse("n", "plain", "the prompts differ"))
    assert (engines.agree, engines.disagree) == (False, False)
