"""`scanproof verify`: a run is judged again by a process that nothing of its session can reach."""

from __future__ import annotations

import gzip
import json
import math
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from scanproof.history import verify
from scanproof.numbers.expected import reader
from scanproof.numbers.verdict.paired_tests import ComparisonOutcome, PairedComparison
from scanproof.record import Replaced, read_run, write_run
from tests.support.measured_run import Measured, judge, measure, with_evaluation
from tests.support.planted import ROOT, wrong_scan
from tests.support.small_history import make_run, rows

BEFORE, LATER = "2026-01-01T00:00:00Z", "2999-01-01T00:00:00+00:00"
AT_EXIT = "import atexit, os\natexit.register(os._exit, 0)"
BENDS = {
    "ends itself after all": AT_EXIT,
    "ends itself before the first test": "import os\ndef pytest_collection_finish(): os._exit(0)",
    "takes a test away": "def pytest_collection_modifyitems(items): del items[1:]\n" + AT_EXIT,
    "runs tests again": (
        "import pytest\n@pytest.hookimpl(tryfirst=True)\n"
        "def pytest_runtest_protocol(item, nextitem):\n"
        "    from _pytest.runner import runtestprotocol\n"
        "    runtestprotocol(item, nextitem=nextitem, log=False)\n" + AT_EXIT
    ),
    "makes every difference 0": "import builtins\ndef pytest_collection_finish(): builtins.abs = lambda x: 0 * x",
}
"""Plugins with which a strict session of a stand-in whose scan is wrong ends with 0."""


def test_a_green_run_is_judged_as_it_says(good: Measured) -> None:
    ended = good.verify("--strict", "--after", BEFORE)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout == f"run {good.run.id}: 2 numbers judged again and as the run says\n"
    assert json.loads(good.verify("--format", "json").stdout) == []


@pytest.mark.parametrize("bend", BENDS)
def test_a_failure_that_its_session_hid_is_found(tmp_path: Path, bend: str) -> None:
    code, measured = measure(tmp_path, wrong_scan, BENDS[bend], "perplexity")
    assert code == 0, "this plugin hides nothing any more: take it from the list"
    ended = measured.verify("--strict", "--after", BEFORE)
    assert ended.returncode != 0
    assert "judged again and as the run says" not in ended.stdout


def test_what_began_before_is_not_what_was_asked_for(good: Measured) -> None:
    late = good.verify("--after", LATER)
    assert late.returncode == 1
    assert late.stdout.startswith(f"not green: it began at {good.run.started}, before 2999-01-01T00:00:00+00:00: ")


def test_answers_that_give_another_verdict_than_the_run_says(own: Measured) -> None:
    (record,) = (record for record in own.run.records if record.metric == "acc")
    (path,) = own.store.glob("runs/*/samples/*/lambada_openai.jsonl")
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    lines[0]["loglikelihoods"][0] -= 0.25
    path.unlink()
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    ended = own.verify()
    assert ended.returncode == 1
    assert f"not green: {record.id}: the run says REPRODUCED, its answers CHANGED, " in ended.stdout, ended.stdout


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda lines: [], "its answers ERROR, its scores cannot be made again: the answers to lambada_openai were"),
        (lambda lines: lines[:100], "its answers ERROR, "),
        (lambda lines: [*lines, lines[0]], "its answers ERROR, "),
        (lambda lines: [{**lines[0], "loglikelihoods": [math.nan]}, *lines[1:]], "its answers ERROR, 1 of 200 answers"),
    ],
    ids=["empty", "half", "doubled", "nan"],
)
def test_answers_that_are_no_evidence_are_named_without_a_traceback(
    own: Measured, spoil: Callable[[list[Any]], list[Any]], said: str
) -> None:
    (path,) = own.store.glob("runs/*/samples/*/lambada_openai.jsonl")
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    path.unlink()
    path.write_text("".join(json.dumps(line) + "\n" for line in spoil(lines)))
    ended = own.verify("--strict")
    assert (ended.returncode, ended.stderr) == (1, "")
    assert said in ended.stdout, ended.stdout


def change_answer(log: Path) -> Path:
    """Move an answer by less than rounding may: no verdict changes."""
    lines = log.read_text().splitlines()
    line = json.loads(lines[0])
    line["loglikelihoods"][0] *= 1 + 1e-12
    lines[0] = json.dumps(line)
    return write_anew(log, "".join(f"{each}\n" for each in lines).encode())


def change_question(log: Path) -> Path:
    path = log.with_name("lambada_openai.texts.jsonl.gz")
    return write_anew(path, gzip.compress(gzip.decompress(path.read_bytes()).replace(b"the", b"The")))


def remove_questions(log: Path) -> Path:
    path = log.with_name("lambada_openai.texts.jsonl.gz")
    path.unlink()
    return path


def add_answers(log: Path) -> Path:
    return write_anew(log.with_name("piqa.jsonl"), log.read_bytes())


def write_anew(path: Path, content: bytes) -> Path:
    """Write a file in place of one that may be a link to that of the store."""
    path.unlink(missing_ok=True)
    path.write_bytes(content)
    return path


OTHER_FILES: dict[str, tuple[Callable[[Path], Path], str]] = {
    "an answer": (change_answer, "it is not the file that was measured: its SHA-256 begins with "),
    "a question": (change_question, "it is not the file that was measured: its SHA-256 begins with "),
    "the questions gone": (remove_questions, "it is gone since it was measured"),
    "a log too many": (add_answers, "it is none of the files that were measured"),
}


@pytest.mark.parametrize("spoil", OTHER_FILES)
def test_answers_that_are_not_the_files_that_were_measured_are_named_by_all_who_read_them(
    own: Measured, spoil: str
) -> None:
    change, said = OTHER_FILES[spoil]
    (log,) = own.store.glob("runs/*/samples/*/lambada_openai.jsonl")
    told = f"{change(log)}: {said}"
    ended = own.verify("--strict")
    assert ended.returncode == 1
    (objection, _) = ended.stdout.splitlines()
    assert objection.startswith(f"not green: {told}"), ended.stdout
    (own.store / "history").mkdir()
    number, history = own.run.records[0].id, str(own.store / "history")
    compared, triaged, published = (
        own.scanproof(*command, "--store", str(own.store))
        for command in (
            ["compare", "latest", "latest"],
            ["triage", "latest", number],
            ["history", "add", "latest", "--history", history],
        )
    )
    assert (compared.returncode, compared.stdout) == (2, "")
    assert told in compared.stderr
    assert told in triaged.stdout, triaged.stdout
    assert published.returncode == 2
    assert told in published.stderr


def test_the_digests_of_an_evaluation_that_was_replaced_are_kept_as_well(own: Measured) -> None:
    (evaluation,) = own.run.evaluations
    folder = own.store / "runs" / own.run.id / "replaced" / evaluation.job.name
    shutil.copytree(own.store / "runs" / own.run.id / "samples" / evaluation.job.name, folder)
    elsewhere = f"/elsewhere/{own.run.id}/replaced/{folder.name}"
    replaced = Replaced(because={}, error="it broke", samples=elsewhere, kept=evaluation.kept)
    run = with_evaluation(own, replaced=replaced)
    said = f"{folder / 'lambada_openai.jsonl'}: it is not the file that was measured"
    assert not any(line.startswith(said) for line in judge(own, run))
    write_anew(folder / "lambada_openai.jsonl", b"")
    assert any(line.startswith(said) for line in judge(own, run))


def test_a_run_of_before_says_no_digests_and_is_judged_by_its_answers(own: Measured) -> None:
    (log,) = own.store.glob("runs/*/samples/*/lambada_openai.jsonl")
    change_answer(log)
    (evaluation,) = own.run.evaluations
    assert evaluation.kept.keys() == {"lambada_openai.jsonl", "lambada_openai.texts.jsonl.gz"}
    assert judge(own, with_evaluation(own, kept={})) == []


def test_a_number_is_judged_by_the_evaluation_of_its_own_job(own: Measured) -> None:
    """The answers of another job are compared with the baseline of that job."""
    run = own.run
    (evaluation,) = run.evaluations
    another = replace(evaluation, key="z" * 64, job=replace(evaluation.job, name="another"))
    swapped = tuple(replace(record, evaluation_key=another.key) for record in run.records)
    run = replace(run, evaluations=(evaluation, another), records=swapped)
    name = evaluation.job.name
    said = [
        f"{each.id}: its verdict was made from the evaluation of another; its job is {name}" for each in run.records
    ]
    assert [line for line in judge(own, run) if "verdict" in line] == said


def test_of_two_evaluations_of_one_key_both_are_judged(own: Measured) -> None:
    run = own.run
    (evaluation,) = run.evaluations
    gone = replace(evaluation, samples="/elsewhere/gone", job=replace(evaluation.job, name="another"))
    for evaluations in ((gone, evaluation), (evaluation, gone)):
        objections = judge(own, replace(run, evaluations=evaluations))
        assert "the answers of another are gone: there is no folder /elsewhere/gone" in objections


def test_answers_lie_beside_the_run_wherever_it_lies_now(own: Measured) -> None:
    assert own.verify("--strict").returncode == 0
    (samples,) = own.store.glob("runs/*/samples/*")
    shutil.rmtree(samples)
    ended = own.verify("--strict")
    assert ended.returncode == 1
    assert f"are gone: there is no folder {samples}\n" in ended.stdout


CHANGES: dict[str, tuple[dict[str, Any], str]] = {
    "an exit code": ({"exit_code": 1}, "its session ended with exit code 1"),
    "no exit code": ({"exit_code": None}, "it does not say how its session ended"),
    "not strict": ({"strict": False}, "its session was not strict"),
    "not finished": ({"finished": None}, "it did not finish: the session was stopped, or ended itself"),
    "to come": ({"started": "2999-01-01T00:00:00+00:00"}, "it began at 2999-01-01T00:00:00+00:00, which is still to"),
    "no time": ({"started": "soon"}, "when it began is no time: 'soon'"),
    "a number never reached": ({"selected_ids": ("a", "b")}, "2 of 2 selected numbers have no verdict: a, b"),
    "a test that failed": ({"failed_tests": ("test_it.py::test",)}, "1 tests failed without a record that says so"),
    "what its session knew": ({"unkept": ("a conftest.py did it",)}, "a conftest.py did it"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_run_that_is_no_evidence_is_not_green(good: Measured, change: str) -> None:
    changes, said = CHANGES[change]
    objections = judge(good, replace(good.run, **changes))
    assert any(line.startswith(said) for line in objections), objections


JOBS: dict[str, Any] = {
    "revision": "another",
    "dtype": "float16",
    "num_fewshot": 5,
    "pretrained": "scanproof/mamba2-tiny",
    "max_length": 64,
    "device": "cuda",
}


@pytest.mark.parametrize("field", JOBS)
def test_an_evaluation_of_another_job_is_none_of_this_one(good: Measured, field: str) -> None:
    (evaluation,) = good.run.evaluations
    other = replace(evaluation, job=replace(evaluation.job, **{field: JOBS[field]}))
    name = evaluation.job.name
    objections = judge(good, replace(good.run, evaluations=(other,)))
    assert any(line.startswith(f"{name}: job.{field}: ") for line in objections), objections


def test_kernels_that_a_job_names_have_to_have_run(good: Measured) -> None:
    loaded = reader.load(good.copy.folder / "expected")
    values = tuple(replace(value, job=replace(value.job, kernels=("selective_scan",))) for value in loaded.values)
    (evaluation,) = good.run.evaluations
    claimed = replace(evaluation, job=replace(evaluation.job, kernels=("selective_scan",)))
    objections = judge(good, replace(good.run, evaluations=(claimed,)), replace(loaded, values=values))
    assert any("selective_scan" in line and line.startswith(f"{evaluation.job.name}: ") for line in objections)


def test_what_was_measured_before_is_not_of_the_session_that_was_asked_for(own: Measured) -> None:
    changes: dict[str, Any]
    for changes in ({"reused": True}, {"measured": "2026-01-01T00:00:00"}, {"measured": None}):
        run = with_evaluation(own, **changes)
        assert judge(own, run) == []
        (objection,) = judge(own, run, asked=verify.Asked(after=verify.read_time("2026-02-01T00:00:00Z")))
        assert objection.endswith("and reused: not in the session that was asked for")


def test_numbers_that_nobody_selected_are_missed_where_a_suite_is_asked_for(good: Measured) -> None:
    (objection,) = judge(good, good.run, asked=verify.Asked(suite="embedded"))
    assert objection.startswith("196 of 198 numbers of the suite embedded were not selected: mamba-7b-tiny-"), objection
    assert good.verify("--suite", "embedded").returncode == 1


def test_latest_is_not_taken_for_one_run_of_several(own: Measured) -> None:
    run = replace(own.run, id=own.run.id[:-1] + ("0" if own.run.id[-1] != "0" else "1"))
    write_run(own.store / "runs", run)
    ended = own.verify("--after", BEFORE)
    assert ended.returncode == 1
    assert " began then or later as well: name the run that is meant by its id\n" in ended.stdout
    assert own.verify("--after", BEFORE, name=own.run.id).returncode == (0 if own.run.id != run.id else 1)


def test_a_folder_that_is_called_latest_is_not_the_latest_run(own: Measured) -> None:
    write_run(own.copy.folder, replace(own.run, id="latest", started="2020-01-01T00:00:00+00:00"))
    ended = own.verify()
    shutil.rmtree(own.copy.folder / "latest")
    assert ended.stdout == f"run {own.run.id}: 2 numbers judged again and as the run says\n"


def test_the_expected_values_are_those_of_now(own: Measured, tmp_path: Path) -> None:
    (record,) = (record for record in own.run.records if record.metric == "acc")
    expected = tmp_path / "expected"
    shutil.copytree(own.copy.folder / "expected", expected)
    (path,) = expected.glob("embedded/mamba1-tiny.yaml")
    text = path.read_text()
    assert record.printed in text
    path.write_text(text.replace(record.printed, "0.9999", 1))
    assert own.verify(expected=expected).returncode == 1


def test_a_run_without_a_number_is_no_evidence(good: Measured) -> None:
    run = replace(good.run, records=(), selected=0, selected_ids=(), due=(), evaluations=(), joint=())
    objections = judge(good, run)
    assert objections[0] == "it measured no published number, and nothing else can be judged again"


@pytest.mark.parametrize("time", ["yesterday", "", "2026-13-01", "2026-11-27T07:30:00", "2026-11-27"])
def test_a_time_that_is_none_is_a_usage_error(good: Measured, time: str) -> None:
    ended = good.verify("--after", time)
    assert ended.returncode == 2
    asked = "--after is a time with its offset from UTC, such as 2026-11-27T01:17:00Z or 2026-11-27T03:17:00+02:00"
    assert ended.stderr == f"scanproof: {asked}; {time!r} is none\n"


@pytest.mark.parametrize("named", [False, True], ids=["not named", "named"])
@pytest.mark.parametrize(
    ("gate", "baseline", "done"),
    [
        (None, "", ""),
        ("SAME", "the run x", "compared"),
        ("SAME", "what older versions said", "compared"),
        ("REFUSED", "the run x", "refused a comparison"),
        ("REFUSED", "the baseline", "refused a comparison"),
    ],
)
def test_a_comparison_with_a_history_that_is_not_named_cannot_be_judged(
    tmp_path: Path, gate: str | None, baseline: str, done: str, named: bool
) -> None:
    """A refused one as well: outside of strict its number passed all the same.

    The history that is named here is another, or could not be reached when the run named no declared run.
    """
    expected = reader.load(ROOT / "expected")
    (value,) = (each for each in expected.numbers if each.id == "mamba-130m-piqa-acc-reproduced")
    assert value.documents is not None
    log = rows(value.documents, round(value.documents * value.expected))
    for doc, row in enumerate(log):
        row["loglikelihoods"] = [answer - doc / 1024 for answer in row["loglikelihoods"]]
    path = make_run(tmp_path, "20260101T010000Z-00000001", {"piqa": log}, job=value.job)
    run = read_run(path)
    found = gate and PairedComparison(subject="n", outcome=ComparisonOutcome(gate), baseline=baseline, because="why")
    (evaluation,) = run.evaluations
    samples = path.parent / "samples" / value.job.name
    run = replace(
        run,
        records=(replace(run.records[0], gate=found or None, outcome="REPRODUCED"),),
        evaluations=(replace(evaluation, samples=str(samples)),),
    )
    (tmp_path / "history").mkdir()
    history = str(tmp_path / "history") if named else None
    objections = verify.SecondJudge(run, path, expected, history).list_objections(verify.Asked())
    asked = gate == "SAME" or (gate is not None and (not named or baseline == "the run x"))
    said = [f"{value.id}: the run was {done} with {baseline}; name that history with --history"] if asked else []
    assert [line for line in objections if line.startswith(f"{value.id}: ")] == said
