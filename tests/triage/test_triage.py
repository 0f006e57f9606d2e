"""What triage says, check by check, on evidence written by hand: the planted faults are in tests/plugin."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scanproof.history.samples import from_lines
from scanproof.kernels.launches.launched import Launches
from scanproof.numbers.values import EvalJob
from scanproof.numbers.verdict.engines import Engines
from scanproof.numbers.verdict.paired_tests import ComparisonOutcome, PairedComparison
from scanproof.record import Record
from scanproof.triage import message, text
from scanproof.triage.checks import numerics
from scanproof.triage.diagnose import diagnose
from scanproof.triage.differences import between
from scanproof.triage.evidence import Bisected, Broken, Departure, Evidence, Side, Substituted, TaskAnswers, Trial
from scanproof.triage.finding import Finding, FindingKind, FindingState, ordered
from scanproof.triage.patterns import MovedDocument, describe_shared
from scanproof.triage.read_answers import Runs

JOB = EvalJob(
    name="job", model="mamba_ssm", pretrained="org/model", revision="main", dtype="bfloat16", device="cuda",
    tasks=("piqa",), num_fewshot=0, batch_size=8,
)  # fmt: skip
PACKAGES = {"lm-eval": "0.4.13", "torch": "2.13.0", "mamba-ssm": "2.2.2"}


def line(doc: int, right: float, wrong: float, prompt: str = "", document: str = "") -> dict[str, Any]:
    """A document with two answers, the first of them right."""
    return {
        "doc_id": doc, "doc_hash": document or f"d{doc}", "prompt_hash": prompt or f"p{doc}", "target_hash": "t",
        "target": 0, "loglikelihoods": [right, wrong], "metrics": {"acc": float(right > wrong)},
    }  # fmt: skip


def side(name: str, lines: list[dict[str, Any]], prompts: Mapping[int, str] | None = None, **fields: Any) -> Side:
    texts = {
        row["doc_id"]: {"prompts": [(prompts or {}).get(row["doc_id"], "A question")], "choices": [" yes", " no"]}
        for row in lines
    }
    answers = TaskAnswers(
        samples=from_lines("job", "piqa", lines), rows={row["doc_id"]: row for row in lines}, texts=texts
    )
    given = {"job": JOB, "environment": {"packages": PACKAGES}, **fields}
    return Side(name=name, tasks={"piqa": answers}, **given)


def evidence(before: Side | None, now: Side | None, **fields: Any) -> Evidence:
    given = {
        "run": "20261120T020000Z-aa", "number": "model-piqa-acc-paper", "outcome": "OUT_OF_TOLERANCE",
        "because": "too low", "metric": "acc", "leaves": (("piqa", "acc"),), "store": ".scanproof", "margin": 0.002,
        **fields,
    }  # fmt: skip
    return Evidence(before=before, now=now, **given)


def moved(sizes: list[float], **fields: Any) -> Side:
    """Documents whose right answer moved by these, from a lead of 0.5 nats."""
    return side("this run", [line(doc, -1 + size, -1.5) for doc, size in enumerate(sizes)], **fields)


CALM = [line(doc, -1, -1.5) for doc in range(60)]


def test_without_anything_to_compare_with_the_answer_is_unexplained() -> None:
    first = diagnose(evidence(None, side("this run", CALM)))[0]
    assert first.kind is FindingKind.UNEXPLAINED
    assert first.next is not None


def test_an_environment_difference_alone_is_suspected_and_never_blamed() -> None:
    now = side("this run", CALM, environment={"packages": {**PACKAGES, "torch": "2.14.0"}})
    calm, *others = diagnose(evidence(side("the good run 1", CALM), now))
    assert calm.kind is FindingKind.NOISE
    (environment,) = [each for each in others if each.kind is FindingKind.ENVIRONMENT]
    assert environment.state is FindingState.UNKNOWN, "no answer moved"
    restless = moved([0.01 * (-1) ** doc for doc in range(60)], environment=now.environment)
    (environment,) = [
        each
        for each in diagnose(evidence(side("the good run 1", CALM), restless))
        if each.kind is FindingKind.ENVIRONMENT
    ]
    assert environment.state is FindingState.SUSPECT
    assert environment.evidence == ("torch: 2.13.0 -> 2.14.0",)
    assert (environment.next or "").startswith("scanproof bisect ")


def test_where_only_our_own_code_differs_the_next_command_is_no_bisection_of_packages() -> None:
    def parts(digest: str) -> dict[str, Any]:
        return {"code": {"scanproof/kernels": {"files": {"reference.py": digest}}}}

    source = {"commit": "c" * 40}
    good = side("the good run 1", CALM, parts=parts("a"), environment={"packages": PACKAGES, "source": source})
    now = moved([0.01 * (-1) ** doc for doc in range(60)], parts=parts("b"))
    (found,) = [each for each in diagnose(evidence(good, now)) if each.kind is FindingKind.ENVIRONMENT]
    assert found.evidence == ("code of scanproof/kernels / reference.py: changed",)
    assert found.next == f"git diff {'c' * 40} -- scanproof"


def test_answers_that_lean_are_a_changed_computation_and_those_that_do_not_are_noise() -> None:
    good = side("the good run 1", CALM)
    leaning = diagnose(evidence(good, moved([-0.02] * 60)))[0]
    assert leaning.kind is FindingKind.NUMERICS
    assert leaning.next is not None
    assert "--substitute" in leaning.next
    noisy = diagnose(evidence(good, moved([0.02 * (-1) ** doc for doc in range(60)])))[0]
    assert noisy.kind is FindingKind.NOISE
    assert noisy.title == "noise of this size explains what moved since the good run 1"


def test_a_move_that_rounding_cannot_make_is_no_noise() -> None:
    good = side("the good run 1", CALM, ceiling=1e-3)
    first = diagnose(evidence(good, moved([0.02 * (-1) ** doc for doc in range(60)])))[0]
    assert first.kind is FindingKind.NUMERICS
    tiny = diagnose(evidence(good, moved([-1e-5] * 60)))[0]
    assert tiny.kind is FindingKind.NOISE, "rounding may lean"
    assert "the printed number" in tiny.title


@settings(max_examples=20)
@given(st.lists(st.floats(0, 3, allow_nan=False), min_size=30, max_size=30))
def test_moves_that_cancel_do_not_lean_whatever_their_size(sizes: list[float]) -> None:
    moves = [*sizes, *(-size for size in sizes)]
    first = diagnose(evidence(side("the good run 1", CALM), moved(moves)))[0]
    assert "on average" not in " ".join(first.evidence), "the shifts of one half are those of the other"


def test_changed_prompts_are_shown_as_a_diff_and_explain_what_moved_with_them() -> None:
    prompts = {7: "Another question"}
    lines = [line(doc, -3 if doc == 7 else -1, -1.5, prompt="other" if doc == 7 else "") for doc in range(60)]
    first = diagnose(evidence(side("the good run 1", CALM), side("this run", lines, prompts)))[0]
    assert (first.kind, first.state) == (FindingKind.TASK, FindingState.CAUSE)
    assert first.title == "piqa: the prompt changed"
    assert "-prompt: A question" in first.evidence
    assert "+prompt: Another question" in first.evidence


def test_a_changed_prompt_does_not_explain_documents_that_kept_theirs() -> None:
    lines = [line(doc, -3, -1.5, prompt="other" if doc == 7 else "") for doc in range(60)]
    found = diagnose(evidence(side("the good run 1", CALM), side("this run", lines, {7: "Another"})))
    (task,) = [each for each in found if each.kind is FindingKind.TASK]
    assert task.state is FindingState.SUSPECT
    assert found[0].kind is FindingKind.UNEXPLAINED


def test_another_harness_that_scores_the_same_answers_differently_is_named() -> None:
    lines = [{**row, "metrics": {"acc": 0.0}} for row in CALM]
    now = side("this run", lines, environment={"packages": {**PACKAGES, "lm-eval": "0.4.9"}})
    first = diagnose(evidence(side("the good run 1", CALM), now))[0]
    assert (first.kind, first.state) == (FindingKind.ENVIRONMENT, FindingState.CAUSE)
    assert first.title == "another lm-eval: the same answers get other scores"


def test_files_of_the_data_decide_whether_the_harness_or_the_dataset_changed_the_questions() -> None:
    lines = [line(doc, -3 if doc < 9 else -1, -1.5, document="other" if doc < 9 else "") for doc in range(60)]
    other = {"packages": {**PACKAGES, "lm-eval": "0.4.9"}}
    good = side("the good run 1", CALM, parts={"datasets": {"piqa": {"files": {"a": "1"}}}})
    same = side("this run", lines, environment=other, parts=good.parts)
    assert diagnose(evidence(good, same))[0].kind is FindingKind.ENVIRONMENT
    changed = replace(same, parts={"datasets": {"piqa": {"files": {"a": "2"}}}})
    first = diagnose(evidence(good, changed))[0]
    assert first.kind is FindingKind.TASK
    assert "datasets piqa / a: changed" in first.evidence


@pytest.mark.parametrize(
    ("kind", "said"),
    [("killed", "ended from outside"), ("hub", "hub"), (None, "worker"), ("no_evidence", "its answers are none")],
)
def test_a_broken_run_is_never_a_regression(kind: str | None, said: str) -> None:
    broken = Broken(kind=kind, message="it ended", log="/logs/worker.log")
    first = diagnose(evidence(None, None, outcome="ERROR", broken=broken))[0]
    assert (first.kind, first.state) == (FindingKind.BROKEN, FindingState.CAUSE)
    assert said in first.title
    assert "log: /logs/worker.log" in first.evidence


def test_a_kernel_that_is_not_shown_to_have_run_is_a_fallback() -> None:
    job = replace(JOB, kernels=("selective_scan",))
    now = replace(side("this run", CALM), job=job, kernels=Launches())
    found = diagnose(evidence(side("the good run 1", CALM), now))
    assert [each.state for each in found if each.kind is FindingKind.FALLBACK] == [FindingState.CAUSE]


def trial(scan: float, norm: float, every: float = 1e-6) -> Substituted:
    trials = (Trial(operation="scan", distance=scan, restored=9), Trial(operation="norm", distance=norm, restored=0))
    return Substituted(
        documents=(3, 4), task="piqa", answers=9, limit=1e-3, as_is=0.5, trials=trials, all_replaced=every,
        departure=Departure(layer=2, position=17, error=0.1, allowed=1e-6, document=3),
    )  # fmt: skip


def test_an_operation_is_named_only_when_it_alone_restores_the_answers() -> None:
    good, now = side("the good run 1", CALM), moved([-0.5] * 60)
    first = diagnose(evidence(good, now, substituted=trial(1e-6, 0.5)))[0]
    assert (first.kind, first.state) == (FindingKind.KERNEL, FindingState.CAUSE)
    assert first.title.startswith("scan: ")
    assert any("layer 2 at position 17 of document 3" in told for told in first.evidence)
    assert first.next == "pytest tests/kernels -k scan"
    stand_in = replace(now, job=replace(JOB, suite="embedded"))
    first, *others = diagnose(evidence(good, stand_in, substituted=trial(1e-6, 0.5)))
    assert first.next == "pytest tests/kernels_unit/test_paper_formulas.py", "which is what a stand-in computes with"
    assert not any("--substitute" in (each.next or "") for each in others), "it was run already"
    for tried in (trial(1e-6, 1e-6), trial(0.5, 0.5), trial(0.5, 0.5, every=0.5)):
        (kernel,) = [
            each for each in diagnose(evidence(good, now, substituted=tried)) if each.kind is FindingKind.KERNEL
        ]
        assert kernel.state is FindingState.UNKNOWN


def test_a_package_that_was_found_by_bisection_is_named_for_runs_that_have_its_version() -> None:
    good, now = side("the good run 1", CALM), moved([-0.5] * 60)
    found = Bisected(packages=("torch",), alone=True, versions=(("torch", "2.12.0", "2.13.0"),), because="alone")
    first = diagnose(evidence(good, now, bisected=found))[0]
    assert (first.kind, first.state, first.title) == (
        FindingKind.PACKAGE,
        FindingState.CAUSE,
        "torch moves this number",
    )
    assert "torch: 2.12.0 is good, 2.13.0 is bad" in first.evidence
    not_alone = diagnose(evidence(good, now, bisected=replace(found, alone=None)))
    assert [each.state for each in not_alone if each.kind is FindingKind.PACKAGE] == [FindingState.SUSPECT]
    other = replace(found, versions=(("torch", "2.12.0", "2.14.0"),))
    assert not [each for each in diagnose(evidence(good, now, bisected=other)) if each.kind is FindingKind.PACKAGE]


def test_what_is_shown_comes_before_what_is_suspected_and_cheap_evidence_first() -> None:
    def made(kind: FindingKind, state: FindingState) -> Finding:
        return Finding(kind=kind, state=state, title="")

    suspect = made(FindingKind.ENVIRONMENT, FindingState.SUSPECT)
    cause, cheap = made(FindingKind.NUMERICS, FindingState.CAUSE), made(FindingKind.TASK, FindingState.CAUSE)
    assert ordered([suspect, cause, cheap]) == (cheap, cause, suspect)


def test_the_message_of_a_test_is_short_and_names_the_next_command() -> None:
    found = diagnose(evidence(side("the good run 1", CALM), moved([-0.5] * 60)))
    lines = text.message(found)
    assert lines[0].startswith("  triage      numerics: ")
    assert lines[-1].startswith("  next        scanproof triage")
    assert len(lines) <= text.MESSAGE_LINES + len(found) + 3


def test_a_terminal_does_not_obey_a_prompt() -> None:
    before = dict.fromkeys(range(60), "What is it?")
    after = {**before, 0: "What \x1b]0;is\x07 it?\u202e"}
    found = evidence(
        side("the good run 1", CALM, before),
        side("this run", [{**CALM[0], "prompt_hash": "other"}, *CALM[1:]], after),
    )
    said = text.report(found, diagnose(found)) + "".join(text.message(diagnose(found)))
    assert said.count(r"What \u001b]0;is\u0007 it?\u202e") == 2
    assert said.replace("\n", "").isprintable()


def test_holm_keeps_what_is_left_after_the_correction() -> None:
    leans = [numerics.Lean(str(p), p, "") for p in (0.0004, 0.9, 0.0006)]
    assert [lean.name for lean in numerics.holm(leans)] == [], "0.0004 is above a third of the level"
    leans = [numerics.Lean(str(p), p, "") for p in (0.0003, 0.9, 0.0006)]
    assert [lean.name for lean in numerics.holm(leans)] == ["0.0003"]


def test_a_message_is_written_even_where_triage_itself_breaks(tmp_path: Path) -> None:
    kept = Record(
        id="n", nodeid="n", document="900", line=1, model="m", hub_id="m", task="piqa", metric="acc", origin="paper",
        printed="1", unit="raw", job="job", outcome="ERROR", because="killed: it ended",
    )  # fmt: skip
    nothing: Any = None
    (said,) = message.lines("run", Runs(tmp_path), kept, None, None, nothing)
    assert said.startswith("  triage      could not look: AttributeError")


def test_what_the_moved_documents_have_in_common_is_said_and_chance_is_not() -> None:
    def documents(sizes: list[float]) -> list[MovedDocument]:
        return [
            MovedDocument(
                task="piqa", doc=place, place=place * 37 % 60, length=100 + place, target=place % 2,
                score=-float(size > 0.5), margin=0.1, moved=-size, answers=(-size, 0.0),
            )
            for place, size in enumerate(sizes)
        ]  # fmt: skip

    longer = describe_shared(documents([0.01 * place for place in range(60)]))
    assert [said.split(":")[0] for said in longer] == ["longer documents move more"]
    second = describe_shared(
        documents([0.6 + 0.001 * (place * 7 % 60) if place % 2 else 0.001 * place for place in range(60)])
    )
    assert any("30 of 30 flips where choice 1 is right (30 documents)" in said for said in second)
    chance = random.Random(0).sample([0.001 * place for place in range(60)], 60)
    assert describe_shared(documents(chance)) == []
    assert describe_shared(documents([0.1, 0.2])) == [], "too few to say anything"


def test_runs_that_cannot_be_read_are_passed_over(tmp_path: Path) -> None:
    run = tmp_path / "runs" / "20261120T020000Z-aa"
    run.mkdir(parents=True)
    (run / "run.json").write_text("{ not json")
    runs = Runs(tmp_path)
    assert list(runs.before("20261121T020000Z-bb")) == []


def engines(outcome: ComparisonOutcome | None) -> Engines:
    """What both engines measured, with this comparison of their documents."""
    found = PairedComparison(subject="n", outcome=outcome, baseline="plain", because="why") if outcome else None
    return Engines(shared=0.2, plain=0.5, because="OUT_OF_TOLERANCE: too low", finding=found)


class TestEngines:
    def test_that_they_disagree_is_said_before_anything_about_the_answers(self) -> None:
        now, recorded = side("this run", CALM), side("the answers", CALM, ceiling=1e-3)
        given = {"recorded": recorded, "engines": engines(ComparisonOutcome.CHANGED), "outcome": "ENGINES_DISAGREE"}
        first, *others = diagnose(evidence(None, now, **given))
        assert (first.kind, first.state) == (FindingKind.ENGINES, FindingState.CAUSE)
        assert first.evidence[0] == "shared measured 0.2, plain 0.5"
        assert first.next == 'pytest -m gpu tests/kernels -k "(split or decode or initial) and not latency"'
        (noise,) = [each for each in others if each.kind is FindingKind.NOISE]
        assert "printed number" not in noise.title, "plain's number is as printed"

    def test_that_they_disagree_does_not_explain_a_number_that_plain_has_wrong_too(self) -> None:
        now, recorded = moved([-1.0] * 60), side("the answers", CALM, ceiling=1e-3)
        first, *others = diagnose(evidence(None, now, recorded=recorded, engines=engines(ComparisonOutcome.CHANGED)))
        assert (first.kind, first.state) == (FindingKind.NUMERICS, FindingState.CAUSE)
        assert [each.state for each in others if each.kind is FindingKind.ENGINES] == [FindingState.SUSPECT]

    def test_the_code_of_the_shared_engine_is_no_difference_where_only_one_used_it(self) -> None:
        parts = {"code": {"scanproof/scoring": {"engine.py": "1"}}}
        good = side("the good run 1", CALM, engine="shared", parts=parts)
        now = moved([-1.0] * 60, engine="plain", parts={"code": {}})
        assert [str(each) for each in between(good, now)] == ["engine: shared -> plain"]
        now = replace(now, engine="shared", parts={"code": {"scanproof/scoring": {"engine.py": "2"}}})
        assert [str(each) for each in between(good, now)] == ["code of scanproof/scoring / engine.py: changed"]

    def test_that_they_agree_is_ruled_out_and_the_engine_is_no_suspect(self) -> None:
        lost = moved([-1.0] * 60, engine="plain")
        good = side("the good run 1", CALM, engine="shared")
        found = diagnose(evidence(good, lost, engines=engines(ComparisonOutcome.SAME)))
        assert [each.state for each in found if each.kind is FindingKind.ENGINES] == [FindingState.RULED_OUT]
        assert not any("engine: shared -> plain" in line for each in found for line in each.evidence)

    def test_another_engine_than_in_the_good_run_is_a_suspect_where_only_one_was_asked(self) -> None:
        lost = moved([-1.0] * 60, engine="shared")
        found = diagnose(evidence(side("the good run 1", CALM, engine="plain"), lost))
        (environment,) = [each for each in found if each.kind is FindingKind.ENVIRONMENT]
        assert (environment.state, environment.evidence) == (FindingState.SUSPECT, ("engine: plain -> shared",))
        (alone,) = [each for each in found if each.kind is FindingKind.ENGINES]
        assert alone.state is FindingState.UNKNOWN
        assert alone.next == "pytest tests/published -k model-piqa-acc-paper --scanproof-engine=auto"

    @pytest.mark.parametrize("broke", ["worker: CUDA error: an illegal memory access was encountered", None])
    def test_that_one_broke_is_the_cause_of_an_error_and_accuses_nobody(self, broke: str | None) -> None:
        made = replace(engines(None if broke else ComparisonOutcome.REFUSED), broke=broke)
        first, *_ = diagnose(evidence(None, side("this run", CALM), engines=made, outcome="ERROR"))
        assert (first.kind, first.state) == (FindingKind.ENGINES, FindingState.CAUSE)
        assert first.title.startswith("the shared engine broke, and plain measured: the machine, " if broke else "why")
        answers = Broken(kind="no evidence", message="400 of 400 answers are no finite number")
        first, *others = diagnose(evidence(None, side("this run", CALM), engines=made, outcome="ERROR", broken=answers))
        assert first.kind is FindingKind.BROKEN, "plain's answers are the error"
        (found,) = [each for each in others if each.kind is FindingKind.ENGINES]
        assert found.state in (FindingState.SUSPECT, FindingState.UNKNOWN)

    @pytest.mark.parametrize("outcome", [ComparisonOutcome.REFUSED, None])
    def test_what_cannot_be_compared_is_unknown(self, outcome: ComparisonOutcome | None) -> None:
        found = diagnose(evidence(None, side("this run", CALM), engines=engines(outcome)))
        assert [each.state for each in found if each.kind is FindingKind.ENGINES] == [FindingState.UNKNOWN]
