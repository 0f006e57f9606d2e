"""The content of a report: verdict, what is new, trends, changed documents, environment."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from scanproof import files, record
from scanproof.history import new_baseline
from scanproof.history.publish import publish
from scanproof.history.store import open_history
from scanproof.kernels.latency.latency_verdict import DeviceLimits, Latency, LatencyBaseline, LatencyVerdict, Timing
from scanproof.numbers.verdict.outcome import LatencyOutcome as Slow
from scanproof.numbers.verdict.paired_tests import ComparisonOutcome, PairedComparison
from scanproof.report import changed_documents as changed
from scanproof.report import content, past_nights
from scanproof.report.content import Report
from tests.support.small_report import NAMES, NUMBER, change, make_nights, report, texts

OTHER = "mamba-130m-winogrande-acc-reproduced"


def of(made: Report, name: str = NUMBER) -> content.Number:
    return next(each for each in made.numbers if each.id == name)


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "store"


def outcome(path: Path, name: str, found: str, **changes: Any) -> None:
    """Give a number of a run another outcome."""
    run = record.read_run(path)
    kept = [replace(each, outcome=found, **changes) if each.id == name else each for each in run.records]
    change(path, records=tuple(kept))


def test_a_number_that_failed_is_said_first_and_is_new(store: Path) -> None:
    made = report(make_nights(store)[-1])
    assert made.verdict.state == "failed"
    assert made.verdict.failed == made.verdict.new == (NUMBER,)
    assert made.verdict.sentence == (
        "1 number failed; 1 of them new since the last run; 2 of 2 numbers measured."
    )  # fmt: skip
    assert (made.last_run, made.last_good) == (NAMES[1], NAMES[1])
    found = of(made)
    assert (found.before, found.new, found.fixed) == ("REPRODUCED", True, False)
    assert found.measured == pytest.approx(0.6)
    assert found.sigmas is not None
    assert found.sigmas < -10
    assert sum(part.size for part in found.parts) == pytest.approx(found.allowed)
    assert found.triage == f"scanproof triage {NAMES[2]} {NUMBER} --store {store}"
    assert [each.triage for each in made.numbers if each.id != NUMBER] == [None]


def test_what_failed_already_is_not_new_and_what_came_back_is_fixed(store: Path) -> None:
    again = report(make_nights(store, (300, 240, 240))[-1])
    assert (again.verdict.failed, again.verdict.new) == ((NUMBER,), ())
    assert "none of them new" in again.verdict.sentence
    assert again.last_good == NAMES[0]
    paths = make_nights(store / "other", (300, 240, 300))
    back = report(paths[-1])
    assert (back.verdict.state, back.verdict.fixed) == ("passed", (NUMBER,))


def test_a_first_run_has_no_news_and_no_trend(store: Path) -> None:
    made = report(make_nights(store, (240,))[-1])
    assert (made.last_run, made.last_good, made.verdict.new) == (None, None, ())
    assert (of(made).series, of(made).before) == ((), None)
    assert of(made).samples == changed.no_comparison("there is no earlier run of this job to compare with")


@pytest.mark.parametrize("broken", ["ERROR", "NOT_RUN"])
def test_what_could_not_run_is_no_pass_and_no_failure(store: Path, broken: str) -> None:
    path = make_nights(store, (300, 300, 300))[-1]
    outcome(path, NUMBER, broken, verdict=None, because="no memory")
    made = report(path)
    assert made.verdict.state == "incomplete"
    assert made.verdict.failed == ()
    assert made.verdict.not_run == {f"{broken}: no memory": (NUMBER,)}
    assert made.verdict.new == (NUMBER,)
    assert "1 of 2 numbers measured" in made.verdict.sentence


def test_a_session_that_was_stopped_is_no_pass(store: Path) -> None:
    path = make_nights(store, (300,))[-1]
    change(path, finished=None, selected=5)
    made = report(path)
    assert made.verdict.state == "incomplete"
    assert "the session was stopped; 3 of 5 selected numbers have no verdict" in made.verdict.sentence


def test_what_is_known_is_listed_with_its_reason(store: Path) -> None:
    path = make_nights(store, (300,))[-1]
    outcome(path, NUMBER, "KNOWN_DISCREPANCY", because="printed by mistake")
    outcome(path, OTHER, "NOT_COMPARABLE", because="a subset")
    made = report(path)
    assert (made.verdict.state, made.verdict.known) == ("passed", (NUMBER,))
    assert made.verdict.not_compared == {"NOT_COMPARABLE: a subset": (OTHER,)}


def test_a_change_over_all_numbers_fails_though_no_number_does(store: Path) -> None:
    path = make_nights(store, (300,))[-1]
    found = PairedComparison(subject="night", outcome=ComparisonOutcome.CHANGED, baseline="b", because="margins moved")
    change(path, joint=(found,))
    made = report(path)
    assert made.verdict.state == "failed"
    assert made.verdict.together == ("all numbers of night together: margins moved",)


class TestTrend:
    def test_every_night_has_a_place_and_failures_are_marked(self, store: Path) -> None:
        made = report(make_nights(store)[-1])
        assert [night.run for night in made.nights] == list(NAMES)
        assert of(made).series == (0.75, 0.75, 0.6)
        assert of(made).failed_nights == (2,)

    def test_a_change_of_version_is_marked_on_its_night(self, store: Path) -> None:
        made = report(make_nights(store)[-1])
        assert [night.changes for night in made.nights[:2]] == [(), ()]
        assert "torch 2.12.1 -> 2.13.0" in made.nights[2].changes

    def test_the_environment_is_compared_with_the_last_good_run(self, store: Path) -> None:
        made = report(make_nights(store)[-1])
        assert ("packages.torch", "2.12.1", "2.13.0") in [(c.what, c.before, c.now) for c in made.changes]

    def test_another_gpu_and_a_limited_run_are_no_nights_of_it(self, store: Path) -> None:
        paths = make_nights(store)
        change(paths[0], limit=10)
        run = record.read_run(paths[1])
        change(paths[1], environment={**run.environment, "gpus": [{"name": "another"}]})
        assert [night.run for night in report(paths[-1]).nights] == [NAMES[2]]

    def test_a_number_that_a_night_lacks_has_a_gap(self, store: Path) -> None:
        paths = make_nights(store)
        run = record.read_run(paths[1])
        change(paths[1], records=tuple(kept for kept in run.records if kept.id != NUMBER))
        made = report(paths[-1])
        assert of(made).series == (0.75, None, 0.6)
        assert of(made).before == "REPRODUCED"

    @pytest.mark.parametrize(("since", "expected"), [("2", NAMES[1:]), ("1", NAMES[2:]), ("2026-11-19", NAMES[1:])])
    def test_since(self, store: Path, since: str, expected: tuple[str, ...]) -> None:
        made = report(make_nights(store)[-1], since=past_nights.parse_since(since))
        assert tuple(night.run for night in made.nights) == expected

    @pytest.mark.parametrize("text", ["0", "-1", "yesterday", "2026-13-01", "", "1.5"])
    def test_what_is_no_since(self, text: str) -> None:
        with pytest.raises(ValueError, match=r".*"):
            past_nights.parse_since(text)

    def test_a_damaged_run_is_said_and_left_out(self, store: Path) -> None:
        paths = make_nights(store)
        paths[1].write_text("{")
        made = report(paths[-1])
        assert [night.run for night in made.nights] == [NAMES[0], NAMES[2]]
        assert any(NAMES[1] in remark for remark in made.remarks)


class TestHistory:
    def published(self, tmp_path: Path) -> tuple[Path, str]:
        paths = make_nights(tmp_path / "store")
        place = open_history(str(tmp_path / "history")).place
        for path in paths:
            publish(path, place)
        texts(paths[-1])
        return paths[-1], str(tmp_path / "history")

    def test_nights_of_a_history_are_those_of_the_store(self, tmp_path: Path) -> None:
        path, history = self.published(tmp_path)
        local = report(path)
        assert report(path, history=history) == replace(local)

    def test_a_run_that_lies_in_the_history_only(self, tmp_path: Path) -> None:
        path, name = self.published(tmp_path)
        history = open_history(name)
        run, folder = past_nights.find_run(NAMES[2], tmp_path / "nowhere", history)
        assert (run, folder) == (record.read_run(path), None)

    def test_documents_are_compared_with_the_declared_baseline(self, tmp_path: Path) -> None:
        path, name = self.published(tmp_path)
        history = open_history(name)
        new_baseline.declare(history, history.find(NAMES[0]), "the first night")
        found = of(report(path, history=name)).samples
        assert found is not None
        assert found.compared_with == f"the run {NAMES[0]}"

    def test_a_history_that_cannot_be_reached_is_said(self, store: Path) -> None:
        made = report(make_nights(store)[-1], history="nosuchscheme://bucket")
        assert len(made.nights) == 3, "the local store has them"
        assert any("nosuchscheme" in remark for remark in made.remarks)


class TestSamples:
    def test_the_documents_that_flipped_with_both_scores_and_their_texts(self, store: Path) -> None:
        path = make_nights(store)[-1]
        texts(path, "What is carried?")
        found = of(report(path)).samples
        assert found is not None
        assert (found.compared_with, found.changed, found.gained, found.lost) == (f"the run {NAMES[1]}", 60, 0, 60)
        assert len(found.shown) == changed.MOST_SAMPLES
        first = found.shown[0]
        assert (first.doc_id, first.before, first.now, first.target) == (240, 1.0, 0.0, 0)
        assert (first.loglikelihoods_before, first.loglikelihoods_now) == ((-4.0, -5.0), (-6.0, -5.0))
        assert first.prompt == "What is carried? 240"

    def test_without_texts_the_scores_are_there(self, store: Path) -> None:
        found = of(report(make_nights(store)[-1])).samples
        assert found is not None
        assert found.shown[0].prompt is None

    def test_a_number_that_did_not_move_has_none(self, store: Path) -> None:
        found = of(report(make_nights(store)[-1]), OTHER).samples
        assert found is not None
        assert (found.changed, found.shown, found.because) == (0, (), None)

    def test_another_harness_that_asked_the_same_is_compared(self, store: Path) -> None:
        paths = make_nights(store)
        run = record.read_run(paths[-1])
        other = {"packages": {"lm-eval": "0.5.0"}}
        change(paths[-1], evaluations=tuple(replace(each, environment=other) for each in run.evaluations))
        found = of(report(paths[-1])).samples
        assert found is not None
        assert (found.because, found.changed) == (None, 60)

    def test_half_a_pair_of_surrogates_in_a_prompt_does_not_take_the_page(self, store: Path) -> None:
        path = make_nights(store)[-1]
        texts(path, "lone \ud800 surrogate")
        found = of(report(path)).samples
        assert found is not None
        assert (found.shown[0].prompt or "").startswith("lone ? surrogate")

    def test_a_long_prompt_keeps_its_end(self) -> None:
        assert changed.cut_to_end("x" * 5000 + "question", 100).endswith("question")
        assert len(changed.cut_to_end("x" * 5000, 100)) == 100 + len(changed.LEFT_OUT)
        assert changed.cut_to_end("short", 100) == "short"

    def test_a_page_has_room_for_so_much_text(self, store: Path) -> None:
        path = make_nights(store)[-1]
        texts(path, "x" * 1000)
        kept = changed.Texts(path.parent, room=3000)
        job = next((path.parent / "samples").iterdir()).name
        shown = [kept.find(job, "piqa", doc)[0] is not None for doc in range(5)]
        assert (shown, kept.left_out) == ([True, True, False, False, False], 3)

    def test_texts_that_cannot_be_read_are_said(self, store: Path) -> None:
        path = make_nights(store)[-1]
        texts(path)
        next(path.parent.glob("samples/*/piqa.texts.jsonl.gz")).write_bytes(b"no gzip")
        made = report(path)
        assert any("texts cannot be read" in remark for remark in made.remarks)


def latency(seconds: float, found: Slow) -> Latency:
    limits = DeviceLimits(bytes_per_s=1e12, flop_per_s={"float16": 1e15})
    return Latency(
        id="scan-float16", nodeid="t", op="scan", direction="forward", kind="cuda", device="NVIDIA H200",
        outcome=found.value, because="b", bytes=10**8, flop=1e9, limits=limits, rate="float16",
        timing=Timing(median=seconds, q1=seconds, q3=seconds, rounds=9, calls=1, noise=0.01, stopped="noise",
                      warmup_rounds=1),
        baseline=LatencyBaseline(seconds=(2e-4, 2e-4)),
        verdict=LatencyVerdict(outcome=found, ratio=seconds / 2e-4, called=0.03, because="b"),
    )  # fmt: skip


@pytest.mark.parametrize("from_history", [False, True])
def test_a_kernel_case_with_its_trend_and_share_of_the_roofline(tmp_path: Path, from_history: bool) -> None:
    paths = make_nights(tmp_path / "store", (300, 300))
    change(paths[0], latencies=(latency(2e-4, Slow.SAME),))
    change(paths[1], latencies=(latency(4e-4, Slow.SLOWER),))
    if from_history:
        for path in paths:
            publish(path, open_history(str(tmp_path / "history")).place)
    made = report(paths[1], history=str(tmp_path / "history") if from_history else None)
    (case,) = made.latencies
    assert (case.series, case.shares) == ((2e-4, 4e-4), (0.5, 0.25))
    assert (case.ratio, case.bound_by) == (2.0, "memory")
    assert made.verdict.state == "failed"
    assert made.verdict.failed == made.verdict.new == ("scan-float16",)


def test_the_json_follows_the_published_schema(store: Path) -> None:
    import jsonschema

    path = make_nights(store)[-1]
    texts(path)
    schema = json.loads((Path(__file__).parents[2] / "docs" / "report.schema.json").read_text())
    found = json.loads(files.to_json(report(path)))
    jsonschema.validate(found, schema)
    broken = {**found, "verdict": {**found["verdict"], "failed": 3}}
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(broken, schema)
