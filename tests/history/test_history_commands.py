"""`scanproof history`, `baseline` and `compare`, as a user calls them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from scanproof.history import prune, queries
from scanproof.history.publish import publish
from scanproof.history.storage import sha256
from scanproof.history.store import History, open_history, seal, unseal
from scanproof.kernels.latency.latency_verdict import Latency, Timing
from scanproof.numbers.verdict.paired_tests import ComparisonOutcome, PairedComparison
from tests.support.small_history import ENVIRONMENT, filled, line, make_run, rows

FIRST, SECOND, THIRD = (f"2026010{day}T010000Z-0000000{day}" for day in (1, 2, 3))
NUMBER = "mamba-130m-piqa-acc-reproduced"


def scanproof(*arguments: str, history: Path | str, expect: int = 0) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "SCANPROOF_HISTORY": str(history), "COLUMNS": "300", "NO_COLOR": "1"}
    command = [sys.executable, "-m", "scanproof", *arguments]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == expect, result.stderr
    assert "Traceback" not in result.stderr
    return result


@pytest.fixture
def history(tmp_path: Path) -> History:
    """Two nights; between them torch was updated and 30 documents were lost."""
    made = filled(tmp_path, FIRST)
    changed: dict[str, Any] = {**ENVIRONMENT, "packages": {"lm-eval": "0.4.13", "torch": "2.14.0"},
                               "source": {"branch": "faster", "commit": "d" * 40}}  # fmt: skip
    publish(make_run(tmp_path / "store", SECOND, {"piqa": rows(400, 270)}, environment=changed), made.place)
    return made


def asked(*arguments: str, history: History, expect: int = 0) -> Any:
    return json.loads(scanproof(*arguments, "--format", "json", history=history.place.name, expect=expect).stdout)


@pytest.mark.parametrize(
    ("arguments", "runs"),
    [
        ([], [FIRST, SECOND]),
        (["--branch", "main"], [FIRST]),
        (["--gpu", "h200"], [FIRST, SECOND]),
        (["--gpu", "A100"], []),
        (["--package", "torch=2.14"], [SECOND]),
        (["--package", "torch=2.1"], []),
        (["--package", "torch=2.13.0", "--package", "lm-eval=0.4"], [FIRST]),
    ],
)
def test_runs_are_listed_and_filtered(history: History, arguments: list[str], runs: list[str]) -> None:
    assert [row["run"] for row in asked("history", *arguments, history=history)] == runs


def test_a_table_holds_what_json_holds(history: History) -> None:
    shown = scanproof("history", history=history.place.name).stdout.splitlines()
    assert [row.split()[0] for row in shown[1:]] == [FIRST, SECOND]
    assert "1 OUT_OF_TOLERANCE" in shown[2]


def test_a_run_is_shown_number_by_number(history: History) -> None:
    row = asked("history", "show", "latest", history=history)[0]
    assert (row["id"], row["outcome"], row["measured"]) == (NUMBER, "OUT_OF_TOLERANCE", 0.675)
    assert "0.675" in scanproof("history", "show", SECOND, history=history.place.name).stdout


def test_a_night_that_failed_beside_its_numbers_says_so_where_runs_are_listed_and_shown(history: History) -> None:
    """All numbers as printed, one selected number without a verdict, and a tokenizer that changed."""
    changed = PairedComparison(subject="tokens of j", outcome=ComparisonOutcome.CHANGED, baseline="b", because="BOS")
    store = Path(history.place.name).parent / "store"
    publish(make_run(store, THIRD, selected=2, selected_ids=("other", NUMBER), joint=(changed,)), history.place)
    said = ["tokens of j: BOS", "1 of 2 selected numbers have no verdict: other"]
    row = asked("history", history=history)[-1]
    assert (row["failed"], row["failures"]) == (0, said)
    shown = scanproof("history", history=history.place.name).stdout.splitlines()[-1].split()
    assert shown[-4:] == ["0", "2", "1", "REPRODUCED"]
    below = scanproof("history", "show", "latest", history=history.place.name).stdout
    assert [line for line in below.splitlines() if "not green" in line] == [f"not green: {line}" for line in said]
    for_programs = scanproof("history", "show", "latest", "--format", "json", history=history.place.name)
    assert json.loads(for_programs.stdout)[0]["outcome"] == "REPRODUCED"
    assert f"not green: {said[0]}" in for_programs.stderr


@pytest.mark.parametrize("early", [False, True], ids=["now", "published before it was said"])
def test_a_killed_session_is_not_green_where_runs_are_listed_and_shown(history: History, early: bool) -> None:
    store = Path(history.place.name).parent / "store"
    publish(make_run(store, THIRD, finished=None), history.place)
    if early:
        (path,) = Path(history.place.name).glob(f"runs/{THIRD}/manifest.json")
        path.write_bytes(seal({**unseal(path.read_bytes()), "failures": []}))
    said = "it did not finish: the session was stopped, or ended itself"
    assert asked("history", history=history)[-1]["failures"] == [said]
    below = scanproof("history", "show", THIRD, history=history.place.name).stdout
    assert [line for line in below.splitlines() if "not green" in line] == [f"not green: {said}"]


def test_a_run_published_before_failures_were_kept_is_listed_and_exported(history: History, tmp_path: Path) -> None:
    for path in Path(history.place.name).glob("runs/*/manifest.json"):
        kept = unseal(path.read_bytes())
        del kept["failures"], kept["failed_tests"]
        path.write_bytes(seal(kept))
    assert [row["failures"] for row in asked("history", history=history)] == [None, None]
    scanproof("history", history=history.place.name)
    scanproof("history", "show", FIRST, history=history.place.name)
    scanproof("history", "export", str(tmp_path / "out"), "--as", "json", history=history.place.name)
    assert [row["failures"] for row in json.loads((tmp_path / "out" / "runs.json").read_text())] == [None, None]


def test_a_number_is_followed_over_the_nights(history: History) -> None:
    assert [row["measured"] for row in asked("history", "trend", NUMBER, history=history)] == [0.75, 0.675]
    said = scanproof("history", "trend", "nothing", history=history.place.name, expect=2).stderr
    assert "no run of 2 holds a number 'nothing'" in said


def test_damage_is_named_on_stderr_and_json_stays_json(history: History) -> None:
    file = next((Path(history.place.root) / "runs" / FIRST).glob("numbers*"))
    file.write_bytes(file.read_bytes()[:-1])
    result = scanproof("history", "--format", "json", history=history.place.name)
    assert [row["run"] for row in json.loads(result.stdout)] == [SECOND]
    assert file.name in result.stderr
    assert "damaged" in result.stderr


def test_answers_that_are_not_those_that_were_published_are_said_beside_the_numbers(history: History) -> None:
    file = next((Path(history.place.root) / "runs" / FIRST).glob("samples*"))
    file.write_bytes(file.read_bytes()[:-1] + b"?")
    result = scanproof("history", "show", FIRST, history=history.place.name)
    assert "0.75" in result.stdout
    assert f"{file}: its bytes are not those that were written (wrong checksum)" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["history"], "there is no history in"),
        (["history", "show", "latest"], "let a session publish its run"),
        (["baseline", "set", "latest", "--reason", "x"], "there is no history in"),
    ],
)
def test_a_history_that_is_not_there_is_said(tmp_path: Path, arguments: list[str], said: str) -> None:
    assert said in scanproof(*arguments, history=tmp_path / "none", expect=2).stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["history", "--package", "torch"], "--package is written name=version"),
        (["history", "show", "2027"], "there is no run '2027'"),
        (["history", "export", "out", "--as", "xlsx"], "--as is one of parquet, csv, json"),
        (["compare", FIRST, "nothing"], "there is no run 'nothing'"),
        (["compare", FIRST, SECOND, "--number", "nothing"], "there is no number 'nothing'"),
    ],
)
def test_a_mistake_is_said_in_a_line(history: History, arguments: list[str], said: str) -> None:
    assert said in scanproof(*arguments, history=history.place.name, expect=2).stderr


def test_a_baseline_is_set_listed_and_refused(history: History) -> None:
    refused = scanproof("baseline", "set", SECOND, "--reason", "x", history=history.place.name, expect=1)
    assert "it failed: 1 of 1 numbers" in refused.stderr
    scanproof("baseline", "set", FIRST, "--reason", "a clean night", history=history.place.name)
    row = asked("baseline", history=history)[0]
    assert (row["run"], row["reason"], row["holds"]) == (FIRST, "a clean night", 1)


def test_a_task_is_left_out_of_a_baseline_by_name_and_it_is_said(tmp_path: Path) -> None:
    history = open_history(str(tmp_path / "history"))
    for name, tasks in ((FIRST, ("piqa", "winogrande", "boolq")), (SECOND, ("piqa",))):
        publish(make_run(tmp_path / "store", name, {task: rows(400, 300) for task in tasks}), history.place)
    place = history.place.name
    scanproof("baseline", "set", FIRST, "--reason", "x", history=place)
    refused = scanproof("baseline", "set", SECOND, "--reason", "x", "--without", "boolq", history=place, expect=1)
    assert "give --without winogrande if that is meant" in refused.stderr
    both = ("--without", "boolq", "--without", "wino*")
    said = scanproof("baseline", "set", SECOND, "--reason", "x", *both, history=place)
    assert [line for line in said.stdout.splitlines() if line.startswith("compared no more: ")] == [
        f"compared no more: {task} of 001-mamba-130m-0shot on NVIDIA H200" for task in ("boolq", "winogrande")
    ]
    assert [row["without"] for row in asked("baseline", history=history)] == ["", "boolq winogrande"]


def comparable(tmp_path: Path, second: list[dict[str, Any]]) -> History:
    """Two runs of a number that scanproof ships, so that its documents are known."""
    made = open_history(str(tmp_path / "history"))
    for name, log in ((FIRST, rows(400, 300)), (SECOND, second)):
        publish(make_run(tmp_path / "store", name, {"piqa": log}), made.place)
    return made


def test_two_runs_are_compared_number_by_number_and_document_by_document(tmp_path: Path) -> None:
    log = [line(doc, right=doc < 300) for doc in range(400)]
    log[7] = line(7, right=False)
    made = comparable(tmp_path, log)
    found = asked("compare", FIRST, SECOND, history=made)
    row = found["numbers"][0]
    assert (row["gained"], row["lost"], row["compared"]) == (0, 1, "SAME")
    assert row["p_value"] == 1
    assert found["environment"] == []
    flipped = asked("compare", FIRST, SECOND, "--number", NUMBER, history=made)
    assert [(row["task"], row["doc_id"], row["score_before"], row["score_now"]) for row in flipped] == [
        ("piqa", 7, 1.0, 0.0)
    ]
    first, second = made.runs()
    assert [row["doc_id"] for row in queries.flipped(made, first, second, "001-mamba-130m-0shot", "piqa", "acc")] == [7]


def test_what_cannot_be_compared_is_said_politely(tmp_path: Path) -> None:
    made = comparable(tmp_path, rows(400, 300, prompt="other"))
    row = asked("compare", FIRST, SECOND, history=made)["numbers"][0]
    assert row["compared"] == "REFUSED"
    assert "piqa: the prompts differ" in row["because"]
    assert "the prompts differ" in scanproof("compare", FIRST, SECOND, history=made.place.name).stdout


def test_environments_are_compared(history: History) -> None:
    rows = asked("compare", FIRST, SECOND, history=history)["environment"]
    assert {"what": "packages.torch", "before": "2.13.0", "now": "2.14.0"} in rows
    assert {row["what"] for row in rows} == {"packages.torch", "source.branch", "source.changed", "source.commit"}


def test_runs_of_the_local_store_are_compared_as_well(tmp_path: Path) -> None:
    made = comparable(tmp_path, rows(400, 300))
    result = scanproof("compare", FIRST, SECOND, "--store", str(tmp_path / "store"), "--all", history=tmp_path / "none")
    assert NUMBER in result.stdout
    assert made.problems == []


def test_export_writes_what_the_history_holds(history: History, tmp_path: Path) -> None:
    out = tmp_path / "it's out"
    for style in ("parquet", "csv", "json"):
        scanproof("history", "export", str(out), "--as", style, history=history.place.name)
    assert sorted(path.name for path in out.iterdir()) == sorted(
        f"{name}.{style}" for name in ("numbers", "runs") for style in ("parquet", "csv", "json")
    )
    assert [row["measured"] for row in json.loads((out / "numbers.json").read_text())] == [0.75, 0.675]
    view = {"exported": queries.parquet([str(out / "runs.parquet")])}
    assert [row["branch"] for row in queries.ask("SELECT * FROM exported ORDER BY run", view)] == ["main", "faster"]


def test_prune_says_first_and_never_takes_a_baseline(history: History) -> None:
    place = history.place.name
    scanproof("baseline", "set", FIRST, "--reason", "x", history=place)
    said = scanproof("history", "prune", "--days", "1", history=place)
    assert "1 would be deleted" in said.stderr
    assert len(open_history(place).runs()) == 2
    scanproof("history", "prune", "--days", "1", "--yes", history=place)
    assert [run.id for run in open_history(place).runs()] == [FIRST]
    assert not (Path(place) / "runs" / SECOND).exists()


def test_prune_takes_samples_and_leaves_numbers(history: History) -> None:
    place = history.place.name
    scanproof("history", "prune", "--days", "1", "--samples", "--yes", history=place)
    assert [row["measured"] for row in asked("history", "trend", NUMBER, history=history)] == [0.75, 0.675]
    left = open_history(place)
    assert [run.samples_pruned for run in left.runs()] == [True, True]
    assert left.problems == []
    row = asked("compare", FIRST, SECOND, history=history)["numbers"][0]
    assert row["compared"] == "REFUSED"
    said = scanproof("baseline", "set", FIRST, "--reason", "x", history=place, expect=1).stderr
    assert "its samples are not in the history" in said
    again = scanproof("history", "prune", "--days", "1", "--samples", history=place)
    assert "0 would be deleted" in again.stderr


def test_prune_takes_publications_that_were_stopped_long_ago(history: History) -> None:
    folder = Path(history.place.root) / "runs" / "20200101T000000Z-aaaaaaaa"
    folder.mkdir()
    (folder / "run-1.json").write_bytes(b"half")
    rows = asked("history", "prune", "--days", "9999", history=history)
    assert [(row["run"], row["what"]) for row in rows] == [(folder.name, "unfinished")]


def test_prune_deletes_a_link_and_nothing_of_what_it_leads_to(history: History, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "mine").write_bytes(b"kept")
    link = Path(history.place.root) / "runs" / "20200101T000000Z-aaaaaaaa"
    link.symlink_to(elsewhere)
    prune.carry_out(history, prune.unfinished(history))
    assert (link.is_symlink(), (elsewhere / "mine").read_bytes()) == (False, b"kept")


def test_latencies_are_followed_where_they_were_timed(tmp_path: Path) -> None:
    made = filled(tmp_path, FIRST)
    assert queries.latency_trend(made, made.runs()) == []
    timing = Timing(median=1e-4, q1=9e-5, q3=1.1e-4, rounds=20, calls=1, noise=0.01, stopped="noise", warmup_rounds=3)
    for name, found in ((SECOND, None), (THIRD, timing)):
        timed = Latency(id="scan", nodeid="test[scan]", op="scan", direction="forward", kind="cuda",
                        device="NVIDIA H200", sizes={"seqlen": 2048}, timing=found)  # fmt: skip
        publish(make_run(tmp_path / "store", name, latencies=(timed,)), made.place)
    rows = queries.latency_trend(made, made.runs())
    shown = [(row["run"], row["id"], row["sizes_seqlen"], row["timing_median"]) for row in rows]
    assert shown == [(SECOND, "scan", 2048, None), (THIRD, "scan", 2048, 1e-4)]


def test_a_version_begins_where_a_part_of_it_ends() -> None:
    assert queries.begins("2.13.0+cpu", "2.13.0")
    assert queries.begins("2.13.0", "2.13")
    assert not queries.begins("2.130.0", "2.13")
    assert not queries.begins(None, "2")
    assert replace(open_history("x").place).is_local


@pytest.mark.parametrize("command", [["show", "latest"], ["trend", NUMBER], ["drift"]], ids=" ".join)
def test_a_file_that_is_whole_but_no_parquet_is_an_error_without_traceback(
    history: History, command: list[str]
) -> None:
    """Its writer was wrong, not the disk: every checksum fits."""
    (path,) = Path(history.place.name).glob(f"runs/{SECOND}/numbers-*")
    content = b"no parquet" * 9
    path.write_bytes(content)
    manifest = json.loads((path.parent / "manifest.json").read_text())
    del manifest["sha256"]
    manifest["files"][path.name] = {"bytes": len(content), "sha256": sha256(content)}
    (path.parent / "manifest.json").write_bytes(seal(manifest))
    said = scanproof("history", *command, history=history.place.name, expect=2).stderr
    assert "DuckDB cannot answer" in said
    assert path.name in said


def test_a_run_whose_numbers_are_damaged_is_not_shown_as_an_empty_success(history: History) -> None:
    (path,) = Path(history.place.name).glob(f"runs/{SECOND}/numbers-*")
    content = bytearray(path.read_bytes())
    content[50] ^= 1
    path.write_bytes(content)
    assert "wrong checksum" in scanproof("history", "show", SECOND, history=history.place.name, expect=1).stderr
