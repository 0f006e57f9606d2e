"""Why a run is not green: asked once, answered alike for sessions, pages, histories and baselines."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from scanproof.history import new_baseline, run_failures
from scanproof.history.publish import publish
from scanproof.history.store import open_history
from scanproof.kernels.latency.latency_verdict import Latency
from scanproof.numbers.verdict.paired_tests import ComparisonOutcome, PairedComparison, refuse
from scanproof.record import Run, find_run, read_run
from scanproof.report.past_nights import summarise_run
from tests.support.small_history import make_run
from tests.support.small_report import change, make_nights, report

NAME = "20260101T010000Z-a"


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return read_run(make_run(tmp_path, NAME))


def test_a_whole_strict_run_is_green(run: Run) -> None:
    assert run_failures.list_failures(run) == []


def limited(run: Run) -> Run:
    (evaluation,) = run.evaluations
    return replace(run, evaluations=(replace(evaluation, job=replace(evaluation.job, limit=3)),))


def uncompared(run: Run) -> Run:
    (kept,) = run.records
    refused = refuse(kept.id, "the run r", "the prompts differ")
    return replace(run, due=(kept.id,), records=(replace(kept, gate=refused),))


def other_tokens(run: Run) -> Run:
    changed = PairedComparison(subject="tokens of j", outcome=ComparisonOutcome.CHANGED, baseline="b", because="BOS")
    return replace(run, joint=(changed,))


def with_case(run: Run, outcome: str) -> Run:
    case = Latency(
        id="scan", nodeid="test[scan]", op="scan", direction="forward", kind="cuda", device="d", outcome=outcome
    )
    return replace(run, latencies=(case,))


FIT_FOR_A_BASELINE = (
    "a kernel that is slower", "a kernel that strict did not measure", "an outcome that the exit code does not show",
    "another tokenizer",
)  # fmt: skip
"""A baseline is about answers, not about time, and may differ from the one before it."""
FAULTS: dict[str, tuple[Callable[[Run], Run], str]] = {
    "a selected number without a record": (
        lambda run: replace(run, selected=2, selected_ids=("other", run.records[0].id)),
        "1 of 2 selected numbers have no verdict: other",
    ),
    "a limited job": (limited, "was limited to the first 3 documents of each task"),
    "a comparison that was due and not made": (uncompared, "1 numbers pass without the comparison that was due"),
    "a number that was skipped": (
        lambda run: replace(run, records=(replace(run.records[0], outcome="NOT_RUN", verdict=None),)),
        "1 of 1 numbers are NOT_RUN",
    ),
    "an outcome that the exit code does not show": (
        lambda run: replace(run, records=(replace(run.records[0], outcome="CHANGED"),)),
        "1 of 1 numbers are CHANGED",
    ),
    "a kernel with wrong results": (lambda run: with_case(run, "WRONG"), "1 of 1 kernel cases are WRONG: scan"),
    "a kernel that is slower": (lambda run: with_case(run, "SLOWER"), "1 of 1 kernel cases are SLOWER: scan"),
    "a kernel that strict did not measure": (
        lambda run: with_case(run, "NOT_MEASURED"),
        "1 of 1 kernel cases are NOT_MEASURED: scan",
    ),
    "a test that failed after its record": (
        lambda run: replace(run, failed_tests=(run.records[0].nodeid,)),
        "1 tests failed without a record that says so: test[",
    ),
    "a session that was killed": (
        lambda run: replace(run, finished=None, exit_code=None),
        "it did not finish: the session was stopped, or ended itself",
    ),
    "another tokenizer": (other_tokens, "tokens of j: BOS"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_is_not_green_is_so_on_every_surface(tmp_path: Path, fault: str) -> None:
    spoil, said = FAULTS[fault]
    paths = make_nights(tmp_path / "store", (300,))
    run = read_run(paths[-1])
    one = replace(run, records=run.records[:1], selected=1)
    spoiled = spoil(one)
    failures = run_failures.list_failures(spoiled)
    assert any(said in line for line in failures), failures
    change(paths[-1], **vars(spoiled))
    assert report(paths[-1]).verdict.state != "passed"
    assert not summarise_run(spoiled, paths[-1].parent).good
    history = open_history(str(tmp_path / "history"))
    publish(paths[-1], history.place)
    assert history.runs()[0].manifest["failures"] == failures
    fits = fault in FIT_FOR_A_BASELINE
    assert (new_baseline.why_not_good(spoiled) == []) == fits


def test_a_run_from_before_exit_codes_is_still_green(run: Run) -> None:
    assert run.finished is not None
    assert run_failures.list_failures(replace(run, exit_code=None)) == []


def test_a_session_that_still_runs_has_not_failed_for_that(run: Run) -> None:
    assert run_failures.list_failures_so_far(replace(run, finished=None)) == []


@pytest.mark.parametrize("strict", [False, True])
def test_the_page_says_once_that_numbers_have_no_verdict(tmp_path: Path, strict: bool) -> None:
    (path,) = make_nights(tmp_path / "store", (300,))
    kept = change(path, strict=strict, selected=3, finished=None, selected_ids=("a",))
    (said,) = run_failures.numbers_without_verdict(kept)
    verdict = report(path).verdict
    assert verdict.state == "incomplete"
    assert verdict.sentence == f"No number failed; 2 of 3 numbers measured; the session was stopped; {said}."


@pytest.mark.parametrize(
    "fault", ["a limited job", "a selected number without a record", "a kernel that strict did not measure"]
)
def test_a_run_that_is_not_strict_may_be_a_part(run: Run, fault: str) -> None:
    assert run_failures.list_failures(replace(FAULTS[fault][0](run), strict=False)) == []


def test_latest_is_the_last_run_that_measured(tmp_path: Path) -> None:
    make_run(tmp_path, "20260101T010000Z-a")
    empty = make_run(tmp_path, "20260102T010000Z-b")
    change(empty, records=(), evaluations=(), selected=0)
    skipped = make_run(tmp_path, "20260103T010000Z-c")
    kept = read_run(skipped).records[0]
    change(skipped, records=(replace(kept, outcome="NOT_RUN", verdict=None),), evaluations=(), exit_code=0)
    assert find_run(tmp_path / "runs", "latest").parent.name == "20260101T010000Z-a"
    history = open_history(str(tmp_path / "history"))
    for path in sorted((tmp_path / "runs").glob("*/run.json")):
        publish(path, history.place)
    assert history.find("latest").id == "20260101T010000Z-a"


@pytest.mark.parametrize("exit_code", [1, 2, None], ids=["red", "interrupted", "killed"])
@pytest.mark.parametrize("reached", [True, False])
def test_a_night_that_measured_nothing_and_had_to_is_the_latest(
    tmp_path: Path, exit_code: int | None, reached: bool
) -> None:
    """Otherwise a report of `latest` would show the night before, and call it passed."""
    make_run(tmp_path, NAME)
    red = make_run(tmp_path, "20260102T010000Z-b")
    (kept,) = read_run(red).records
    records = (replace(kept, outcome="NOT_RUN", verdict=None),) if reached else ()
    change(red, records=records, evaluations=(), selected=1, exit_code=exit_code)
    assert find_run(tmp_path / "runs", "latest") == red
    history = open_history(str(tmp_path / "history"))
    for path in sorted((tmp_path / "runs").glob("*/run.json")):
        publish(path, history.place)
    assert history.find("latest").id == red.parent.name
