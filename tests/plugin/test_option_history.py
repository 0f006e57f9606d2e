"""--scanproof-history: finished runs are published, and compared with the baseline document by document."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from scanproof.history import baseline
from scanproof.history.store import History, open_history
from tests.support.small_project import HOOK, Project

SAMPLES = """
    samples = settings.store / ("samples-" + job.name)
    samples.mkdir(parents=True, exist_ok=True)
    lost = json.loads((HERE / "lost.json").read_text())
    for task in job.tasks:
        lines = []
        for doc in range(2376):
            right = doc < 1188 - lost.get(task, 0)
            lines.append({"doc_id": doc, "doc_hash": f"{doc}", "prompt_hash": lost.get("prompt", "p"),
                          "target_hash": "t", "target": 0, "loglikelihoods": [-1.0, -2.0] if right else [-2.0, -1.0],
                          "is_greedy": [right, not right],
                          "metrics": {"acc": float(right), "acc_norm": float(right), "perplexity": -2.0}})
        (samples / f"{task}.jsonl").write_text("".join(json.dumps(line) + "\\n" for line in lines))
    environment = {"packages": {"lm-eval": lost.get("harness", "0.4.13")}}
    return Evaluation(
        job=job, key="k" * 64, measurements=tuple(found), samples=str(samples), command="lm_eval --model hf",
        environment=environment,
    )
"""


@pytest.fixture
def nightly(project: Project) -> Project:
    """A project whose evaluations leave samples; `lost.json` says how many documents of a task are lost."""
    start = HOOK.index("    samples = settings.store")
    project.pytester.makeconftest(HOOK[:start] + SAMPLES.lstrip("\n"))
    project.document(models=("one",))
    lose(project)
    return project


def lose(project: Project, **lost: Any) -> None:
    (project.root / "lost.json").write_text(json.dumps(lost))


def history(project: Project) -> History:
    return open_history(str(project.root / "history"))


def with_baseline(project: Project) -> None:
    """A first strict night, declared good."""
    project.run("--scanproof-history=history", "--scanproof-strict").assert_outcomes(passed=3)
    kept = history(project)
    baseline.declare(kept, kept.find("latest"), "the first night")


def test_a_finished_run_is_published(nightly: Project) -> None:
    result = nightly.run("--scanproof-history=history")
    result.stdout.fnmatch_lines(["*published to *history*"])
    run = history(nightly).runs()[0]
    assert run.id == nightly.latest_run()["id"]
    assert run.manifest["outcomes"] == {"REPRODUCED": 3}
    assert run.manifest["finished"] is not None


@pytest.mark.parametrize("how", ["ini", "environment"])
def test_the_twins_of_the_flag(nightly: Project, how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if how == "ini":
        nightly.pytester.makeini("[pytest]\nscanproof_history = history\n")
    else:
        monkeypatch.setenv("SCANPROOF_HISTORY", "history")
    nightly.run()
    assert len(history(nightly).runs()) == 1


def test_without_the_option_nothing_is_published(nightly: Project) -> None:
    result = nightly.run()
    result.stdout.no_fnmatch_line("published to *")
    result.stdout.no_fnmatch_line("*document by document*")
    assert not (nightly.root / "history").exists()


def test_a_url_is_left_as_it_is(nightly: Project) -> None:
    """fsspec's memory lives in the process, so that only the message can be seen from here."""
    result = nightly.run("--scanproof-history=memory://bucket/history")
    result.stdout.fnmatch_lines(["*published to memory://bucket/history*"])


@pytest.mark.parametrize("workers", [(), ("-n", "2")], ids=["one process", "xdist"])
def test_with_a_baseline_a_clean_night_is_the_same(nightly: Project, workers: tuple[str, ...]) -> None:
    with_baseline(nightly)
    result = nightly.run("--scanproof-history=history", *workers)
    result.assert_outcomes(passed=3)
    result.stdout.fnmatch_lines(["document by document: 3 numbers as in their baseline"])
    run: Any = nightly.latest_run()
    assert [record["gate"]["outcome"] for record in run["records"]] == ["SAME"] * 3
    assert [found["outcome"] for found in run["joint"]] == ["SAME"]


def test_documents_lost_within_the_first_gates_tolerance_fail_the_second(nightly: Project) -> None:
    """The measured number is as printed; 24 documents of 2376 are not as they were."""
    with_baseline(nightly)
    lose(nightly, arc_easy=24)
    result = nightly.run("--scanproof-history=history")
    result.assert_outcomes(failed=2, passed=1)
    result.stdout.fnmatch_lines([
        "*within tolerance, but document by document not as in the baseline",
        "*baseline    the run *: CHANGED",
        "*flips: 0 documents gained, 24 lost of 2376: p = 1.2e-07 (exact McNemar); fewer than 1 of *is CHANGED",
        "*2 CHANGED, 1 REPRODUCED*",
    ])  # fmt: skip
    run: Any = nightly.latest_run()
    outcomes = {record["id"]: (record["outcome"], record["verdict"]["outcome"]) for record in run["records"]}
    assert outcomes["one-arc_easy-acc-author"] == ("CHANGED", "CHANGED")
    kept = history(nightly)
    assert kept.runs()[-1].manifest["outcomes"] == {"CHANGED": 2, "REPRODUCED": 1}


def test_a_drop_that_no_number_shows_fails_the_session(nightly: Project) -> None:
    """12 documents of each task: no number is alarming alone, their model is."""
    with_baseline(nightly)
    lose(nightly, arc_easy=12, lambada_openai=12)
    result = nightly.run("--scanproof-history=history")
    result.assert_outcomes(passed=3)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(
        ["all numbers of org/one together: changed since the run *0 documents gained, 24 lost*"]
    )


@pytest.mark.parametrize(
    ("lost", "said"), [({"prompt": "x"}, "the prompts differ"), ({"harness": "0.4.2"}, "lm-eval 0.4.2 now, 0.4.13 in")]
)
def test_what_cannot_be_paired_is_said_and_is_no_failure(nightly: Project, lost: dict[str, str], said: str) -> None:
    with_baseline(nightly)
    lose(nightly, arc_easy=100, **lost)
    result = nightly.run("--scanproof-history=history")
    result.assert_outcomes(passed=3)
    result.stdout.fnmatch_lines(["document by document with the baseline: 3 REFUSED", f"*not compared with *{said}*"])


def test_a_limited_run_is_not_compared(nightly: Project) -> None:
    with_baseline(nightly)
    result = nightly.run("--scanproof-history=history", "--scanproof-limit=10")
    result.assert_outcomes(skipped=3)
    run: Any = nightly.latest_run()
    assert {record["outcome"] for record in run["records"]} == {"NOT_COMPARABLE"}
    kept = history(nightly)
    with pytest.raises(Exception, match="it is limited to the first 10 documents"):
        baseline.declare(kept, kept.find("latest"), "x")


def test_a_history_that_cannot_be_written_turns_nothing_red(nightly: Project) -> None:
    (nightly.root / "history").write_text("a file, not a folder")
    result = nightly.run("--scanproof-history=history")
    result.assert_outcomes(passed=3)
    assert result.ret == pytest.ExitCode.OK
    result.stdout.fnmatch_lines(["NOT published: *", "*again: scanproof history add *"])


def test_a_history_that_cannot_be_written_turns_nothing_green(nightly: Project) -> None:
    (nightly.root / "history").write_text("a file, not a folder")
    nightly.answer([["arc_easy", "acc", 0.3, 2376], ["arc_easy", "acc_norm", 0.45, 2376],
                    ["lambada_openai", "perplexity", 8.14, 5153]])  # fmt: skip
    result = nightly.run("--scanproof-history=history")
    result.assert_outcomes(passed=2, failed=1)
    assert result.ret == pytest.ExitCode.TESTS_FAILED


def test_a_baseline_that_is_damaged_is_said_and_no_number_fails_for_it(nightly: Project) -> None:
    with_baseline(nightly)
    samples = next((nightly.root / "history" / "runs").glob("*/samples-*"))
    samples.write_bytes(samples.read_bytes()[:-1] + b"x")
    result = nightly.run("--scanproof-history=history")
    result.assert_outcomes(passed=3)
    result.stdout.fnmatch_lines(["*3 REFUSED*", "*the baseline run * cannot be read: *wrong checksum*"])


def test_samples_that_are_no_samples_are_said(nightly: Project) -> None:
    with_baseline(nightly)
    nightly.pytester.makeconftest(HOOK.replace('"lm_eval --model hf"', '"c", environment={"packages": {}}'))
    result = nightly.run("--scanproof-history=history")
    result.assert_outcomes(passed=3)
    result.stdout.fnmatch_lines(["*3 REFUSED*", "*not a log of samples*", "NOT published: *not a log of samples*"])


def test_a_session_that_was_stopped_is_published_as_partial(nightly: Project) -> None:
    shutil.rmtree(nightly.root / "expected")
    nightly.document()
    nightly.answer({"kind": "out_of_memory", "message": "no memory"})
    nightly.run("-x", "--scanproof-history=history")
    run = history(nightly).runs()[0]
    assert run.manifest["finished"] is None
    assert run.manifest["outcomes"] == {"ERROR": 1}


def test_a_project_of_its_own_compares_its_embedded_numbers_with_the_answers_beside_them(project: Project) -> None:
    """Without answers, there is nothing to compare with, and nothing is said."""
    folder = project.document(suite="embedded", models=("one",))
    assert not list(Path(folder).glob("*.answers.jsonl.gz"))
    result = project.run()
    result.assert_outcomes(passed=3)
    result.stdout.no_fnmatch_line("*document by document*")
