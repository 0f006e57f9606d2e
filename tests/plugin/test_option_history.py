"""--scanproof-history: finished runs are published, and compared with the baseline document by document."""

from __future__ import annotations

import shutil
from typing import Any

import pytest

from scanproof.history import new_baseline
from tests.support.nightly_project import history, lose, with_baseline
from tests.support.small_project import GOOD, Project


def test_a_finished_run_is_published(nightly: Project) -> None:
    result = nightly.run("--scanproof-history=history")
    result.stdout.fnmatch_lines(["*published to *history*"])
    run = history(nightly).runs()[0]
    assert run.id == nightly.latest_run()["id"]
    assert run.manifest["outcomes"] == {"REPRODUCED": 3}
    assert run.manifest["finished"] is not None


@pytest.mark.parametrize("strict", [(), ("--scanproof-strict",)], ids=["", "strict"])
def test_numbers_without_a_declared_baseline_are_counted_with_where_it_was_looked_for(
    nightly: Project, strict: tuple[str, ...]
) -> None:
    """So that another folder is not taken for the history with the baselines."""
    with_baseline(nightly)
    (nightly.root / "histroy").mkdir()
    result = nightly.run("--scanproof-history=histroy", *strict)
    result.assert_outcomes(passed=3)
    place = nightly.root / "histroy"
    result.stdout.fnmatch_lines([f"no declared baseline in {place}: 3 of 3 measured numbers; *baseline set RUN*"])
    nightly.run("--scanproof-history=history", *strict).stdout.no_fnmatch_line("no declared baseline*")


@pytest.mark.parametrize("url", ["", "file://", "simplecache::file://"])
def test_a_misspelt_folder_begins_no_new_history_under_strict(nightly: Project, url: str) -> None:
    place = nightly.root / "histroy"
    given = f"--scanproof-history={f'{url}{place}' if url else 'histroy'}"
    result = nightly.run(given, "--scanproof-strict")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"*--scanproof-history: there is no folder {place}; *: mkdir {place}"])
    assert not place.exists()
    assert not (nightly.root / "jobs.log").exists()
    assert nightly.run(given).ret == pytest.ExitCode.OK


@pytest.mark.parametrize("workers", [(), ("-n", "1")], ids=["one process", "xdist"])
def test_the_first_strict_night_begins_its_history_in_a_folder_that_was_made(
    nightly: Project, workers: tuple[str, ...]
) -> None:
    assert nightly.run("--scanproof-history=history", "--scanproof-strict", *workers).ret == pytest.ExitCode.OK
    assert len(history(nightly).runs()) == 1


def test_numbers_beside_those_with_a_baseline_are_counted(nightly: Project) -> None:
    nightly.run("--scanproof-history=history", "--scanproof-strict", "-k", "arc_easy").assert_outcomes(passed=2)
    kept = history(nightly)
    new_baseline.declare(kept, kept.find("latest"), "two numbers")
    result = nightly.run("--scanproof-history=history", "--scanproof-strict")
    result.stdout.fnmatch_lines([
        "document by document: 2 numbers as in their baseline", "no declared baseline in *: 1 of 3 measured numbers; *"
    ])  # fmt: skip


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
    assert list((nightly.root / "history").iterdir()) == []


def test_a_url_is_left_as_it_is(nightly: Project) -> None:
    """fsspec's memory lives in the process, so that only the message can be seen from here."""
    result = nightly.run("--scanproof-history=memory://bucket/history")
    result.stdout.fnmatch_lines(["*published to memory://bucket/history*"])


@pytest.mark.parametrize("name", ["memory://bucket/history", "simplecache::memory://bucket/history"])
def test_a_strict_session_has_no_history_that_ends_with_it(nightly: Project, name: str) -> None:
    result = nightly.run(f"--scanproof-history={name}", "--scanproof-strict")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(
        [f"ERROR: scanproof: --scanproof-history: {name} keeps no history: it is in the memory of this process *"]
    )


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


def read_otherwise(project: Project) -> None:
    """From now on the model reads a fixed text as other tokens."""
    evidence = project.root / "evidence.py"
    evidence.write_text(evidence.read_text().replace("PROBE_TOKENS = [5, 6, 7]", "PROBE_TOKENS = [0, 5, 6, 7]"))


@pytest.mark.parametrize("selected", [("-k", "arc_easy"), ()], ids=["the same tasks", "all tasks"])
def test_a_baseline_of_some_tasks_is_compared_with_these_together_and_by_tokens(
    nightly: Project, selected: tuple[str, ...]
) -> None:
    """Whichever number of the job comes last in the expected file; perplexity does, and the baseline lacks it."""
    nightly.run("--scanproof-history=history", "--scanproof-strict", "-k", "arc_easy").assert_outcomes(passed=2)
    kept = history(nightly)
    declared = new_baseline.declare(kept, kept.find("latest"), "two numbers")
    read_otherwise(nightly)
    result = nightly.run("--scanproof-history=history", *selected)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    run: Any = nightly.latest_run()
    joint = [(finding["subject"], finding["outcome"], finding["baseline"]) for finding in run["joint"]]
    name = f"the run {declared.run}"
    assert joint[:2] == [("org/one", "SAME", name), ("tokens of 900-one-0shot", "CHANGED", name)]


def test_another_lm_eval_that_asked_the_same_is_compared(nightly: Project) -> None:
    with_baseline(nightly)
    lose(nightly, arc_easy=24, harness="0.4.2")
    result = nightly.run("--scanproof-history=history")
    result.assert_outcomes(failed=2, passed=1)
    result.stdout.fnmatch_lines(["*2 CHANGED, 1 REPRODUCED*"])


def test_what_cannot_be_paired_is_said_and_fails_under_strict(nightly: Project) -> None:
    with_baseline(nightly)
    lose(nightly, arc_easy=24, asked="x")
    result = nightly.run("--scanproof-history=history")
    result.assert_outcomes(passed=3)
    said = "*not compared with *the answers to choose from differ*"
    result.stdout.fnmatch_lines(["document by document with the baseline: 3 REFUSED", said])
    strict = nightly.run("--scanproof-history=history", "--scanproof-strict")
    strict.assert_outcomes(failed=3)
    strict.stdout.fnmatch_lines(
        [said, "*declare a new baseline: scanproof baseline set RUN*", "*3 COMPARISON_MISSING*"]
    )


def edit_job(project: Project, old: str, new: str) -> None:
    path = project.root / "expected" / "900-test" / "one.yaml"
    path.write_text(path.read_text().replace(old, new))


@pytest.mark.parametrize(("old", "new"), [("batch_size: 8", "batch_size: 9"), ("num_fewshot: 0", "num_fewshot: 2")])
def test_under_strict_a_number_whose_baseline_is_of_another_evaluation_fails(
    nightly: Project, old: str, new: str
) -> None:
    with_baseline(nightly)
    edit_job(nightly, old, new)
    result = nightly.run("--scanproof-history=history", "--scanproof-strict")
    result.assert_outcomes(failed=3)
    result.stdout.fnmatch_lines(["*was declared for another evaluation of this number*", "*3 COMPARISON_MISSING*"])
    nightly.run("--scanproof-history=history").assert_outcomes(passed=3)


@pytest.mark.parametrize("workers", [(), ("-n", "1")], ids=["one process", "xdist"])
def test_under_strict_a_number_that_was_due_and_measured_on_another_gpu_fails(
    nightly: Project, workers: tuple[str, ...]
) -> None:
    """What is due is decided once, before anything runs, and the verdict goes by it."""
    with_baseline(nightly)
    evidence = nightly.root / "evidence.py"
    evidence.write_text(
        evidence.read_text().replace('"probe_tokens": PROBE', '"gpus": [{"name": "X"}], "probe_tokens": PROBE')
    )
    result = nightly.run("--scanproof-history=history", "--scanproof-strict", *workers)
    result.assert_outcomes(failed=3)
    run: Any = nightly.latest_run()
    assert [record["outcome"] for record in run["records"]] == ["COMPARISON_MISSING"] * 3
    assert "none for this evaluation on the GPU that it ran on" in run["records"][0]["because"]


def test_under_strict_a_damaged_declaration_fails_what_it_may_have_been_for(nightly: Project) -> None:
    with_baseline(nightly)
    (declaration,) = (nightly.root / "history" / "baselines").glob("*.json")
    declaration.write_bytes(declaration.read_bytes().replace(b"first", b"other"))
    result = nightly.run("--scanproof-history=history", "--scanproof-strict")
    result.assert_outcomes(failed=3)
    result.stdout.fnmatch_lines(["*it is not known which numbers have one*", "*3 COMPARISON_MISSING*"])


def test_what_is_due_is_in_the_run_before_anything_is_measured(nightly: Project) -> None:
    with_baseline(nightly)
    nightly.answer({"kind": "out_of_memory", "message": "no memory"})
    nightly.run("--scanproof-history=history", "--scanproof-strict")
    run: Any = nightly.latest_run()
    assert run["due"] == run["selected_ids"] != []


def test_a_limited_run_is_not_compared(nightly: Project) -> None:
    with_baseline(nightly)
    result = nightly.run("--scanproof-history=history", "--scanproof-limit=10")
    result.assert_outcomes(skipped=3)
    run: Any = nightly.latest_run()
    assert {record["outcome"] for record in run["records"]} == {"NOT_COMPARABLE"}
    kept = history(nightly)
    with pytest.raises(Exception, match="it is limited to the first 10 documents"):
        new_baseline.declare(kept, kept.find("latest"), "x")


def test_a_history_that_cannot_be_written_turns_nothing_red(nightly: Project) -> None:
    (nightly.root / "history" / "runs").write_text("a file, not a folder")
    result = nightly.run("--scanproof-history=history")
    result.assert_outcomes(passed=3)
    assert result.ret == pytest.ExitCode.OK
    result.stdout.fnmatch_lines(["NOT published: *", "*again: scanproof history add *"])


def test_a_history_that_cannot_be_written_turns_nothing_green(nightly: Project) -> None:
    (nightly.root / "history" / "runs").write_text("a file, not a folder")
    nightly.answer([["arc_easy", "acc", 0.3, 2376], ["arc_easy", "acc_norm", 0.45, 2376],
                    ["lambada_openai", "perplexity", 8.14, 5153]])  # fmt: skip
    result = nightly.run("--scanproof-history=history")
    result.assert_outcomes(passed=2, failed=1)
    assert result.ret == pytest.ExitCode.TESTS_FAILED


@pytest.mark.parametrize("strict", [False, True])
def test_a_baseline_that_is_damaged_is_said_and_fails_under_strict(nightly: Project, strict: bool) -> None:
    with_baseline(nightly)
    samples = next((nightly.root / "history" / "runs").glob("*/samples-*"))
    samples.write_bytes(samples.read_bytes()[:-1] + b"x")
    result = nightly.run("--scanproof-history=history", *(["--scanproof-strict"] if strict else []))
    result.assert_outcomes(**{"failed" if strict else "passed": 3})
    result.stdout.fnmatch_lines(["*3 REFUSED*", "*the baseline run * cannot be read: *wrong checksum*"])


def test_a_session_that_was_stopped_is_published_as_partial(nightly: Project) -> None:
    shutil.rmtree(nightly.root / "expected")
    nightly.document()
    nightly.answer({"kind": "out_of_memory", "message": "no memory"})
    nightly.run("-x", "--scanproof-history=history")
    run = history(nightly).runs()[0]
    assert run.manifest["finished"] is None
    assert run.manifest["outcomes"] == {"ERROR": 1}


def test_a_project_of_its_own_compares_its_embedded_numbers_with_the_answers_beside_them(project: Project) -> None:
    folder = project.document(suite="embedded", models=("one",))
    result = project.run()
    result.assert_outcomes(passed=3)
    result.stdout.fnmatch_lines(["document by document: 3 numbers as in their baseline"])
    (folder / "one.answers.jsonl.gz").unlink()
    without = project.run()
    without.assert_outcomes(failed=3)
    without.stdout.fnmatch_lines(["*one.answers.jsonl.gz is not there", "*restore it*", "*3 COMPARISON_MISSING*"])


@pytest.mark.parametrize("strict", [False, True])
def test_an_expected_number_of_a_stand_in_that_its_recorded_answers_do_not_make_fails(
    project: Project, strict: bool
) -> None:
    """Within the tolerance of what is measured, too: a fault could have been made the expected value."""
    path = project.document(suite="embedded", models=("one",)) / "one.yaml"
    path.write_text(path.read_text().replace('"0.4499"', '"0.4503"'))
    result = project.run(*(["--scanproof-strict"] if strict else []))
    result.assert_outcomes(passed=2, failed=1)
    told = "*900-test/one.yaml:*: printed: 0.4503 is expected of arc_easy acc_norm, but the answers recorded with it *"
    result.stdout.fnmatch_lines([told, "*1 COMPARISON_MISSING*"])


def test_no_declared_run_stands_in_for_the_answers_of_a_stand_in(project: Project) -> None:
    """Declaring a run with a fault would make the fault green for good."""
    project.document(suite="embedded", models=("one",))
    project.answer([("arc_easy", "acc", 0.501, 2376), *GOOD[1:]])
    options = "--scanproof-history=history", "--scanproof-strict"
    (project.root / "history").mkdir()
    assert changed(project, *options) == 2
    kept = history(project)
    new_baseline.declare(kept, kept.find("latest"), "a change that is meant")
    assert changed(project, *options) == 2


def changed(project: Project, *options: str) -> int:
    """How many numbers of a session are not as in their baseline."""
    project.run(*options)
    run: Any = project.latest_run()
    return sum(record["outcome"] == "CHANGED" for record in run["records"])
