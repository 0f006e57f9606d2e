"""Samples to and from Parquet, and the logs they come from."""

from __future__ import annotations

import gzip
import io
import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scanproof import record
from scanproof.history import compare, samples
from scanproof.history.errors import HistoryError
from scanproof.history.publish import publish
from scanproof.history.recorded_answers import read_answers_file
from scanproof.history.store import open_history
from scanproof.numbers.verdict.scores import MissingEvidenceError, score_documents
from tests.support.builders import CONSTANTS
from tests.support.builders import published as published_value
from tests.support.small_history import STRICT_JOB, make_run, rows, task

VALUES = st.floats(allow_nan=False)


@settings(max_examples=40)
@given(st.lists(st.lists(VALUES, max_size=4), min_size=1, max_size=8), VALUES)
def test_every_float_survives_the_way_to_parquet_and_back(answers: list[list[float]], score: float) -> None:
    lines = [
        {"doc_id": doc, "doc_hash": "d", "prompt_hash": "p", "target_hash": "t", "target": None,
         "loglikelihoods": [str(x) if math.isinf(x) else x for x in values], "metrics": {"acc": score}}
        for doc, values in enumerate(answers)
    ]  # fmt: skip
    made = samples.from_lines("job", "piqa", lines)
    assert samples.from_parquet(samples.to_parquet([made])) == {("job", "piqa"): made}


def test_several_tasks_and_jobs_come_back_and_one_job_can_be_asked_for() -> None:
    made = [task(rows(9, 4), job=job, name=name) for job in ("b", "a") for name in ("piqa", "arc_easy")]
    content = samples.to_parquet(made)
    assert samples.from_parquet(content) == {(each.job, each.task): each for each in made}
    assert set(samples.from_parquet(content, {"a"})) == {("a", "piqa"), ("a", "arc_easy")}
    assert samples.from_parquet(samples.to_parquet([])) == {}


def test_tasks_with_different_metrics_keep_their_own() -> None:
    other = samples.from_lines("j", "x", [{**row, "metrics": {"perplexity": -1.5}} for row in rows(3, 1)])
    back = samples.from_parquet(samples.to_parquet([task(rows(3, 1), job="j"), other]))
    assert set(back["j", "x"].metrics) == {"perplexity"}
    assert set(back["j", "piqa"].metrics) == {"acc"}


READ_TWICE = """
import os
import sys
from pathlib import Path
from scanproof.history import samples

import pyarrow.parquet

content, before = Path(sys.argv[1]).read_bytes(), os.listdir("/proc/self/task")
for wanted in (None, {"a"}):
    assert samples.from_parquet(content, wanted)
assert os.listdir("/proc/self/task") == before, "a thread was started"
"""


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="only Linux lists a process's threads")
def test_reading_starts_no_thread(tmp_path: Path) -> None:
    # One that holds a buffer of Python's aborts the process at its end, now and then: `terminate called without an
    # active exception` instead of the exit code.
    kept = tmp_path / "samples.parquet"
    kept.write_bytes(samples.to_parquet([task(rows(9, 4), job=job, name="piqa") for job in ("b", "a")]))
    read = subprocess.run(
        [sys.executable, "-c", READ_TWICE, str(kept)], capture_output=True, text=True, timeout=120, check=False
    )
    assert read.returncode == 0, read.stderr


def with_evidence(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Logged documents with what a session logs beside their answers; the first has two right answers."""
    right = [[0, 1], *([row["target"]] for row in lines[1:])]
    return [{**row, "right": good, "lengths": [5, 70_000]} for row, good in zip(lines, right, strict=True)]


def test_what_scores_are_made_of_comes_back() -> None:
    made = task(with_evidence(rows(9, 4)), job="j")
    single = [
        {**row, "loglikelihoods": row["loglikelihoods"][:1], "is_greedy": row["is_greedy"][:1]} for row in rows(9, 4)
    ]
    alone = samples.from_lines("j", "lambada_openai", single)
    back = samples.from_parquet(samples.to_parquet([made, alone]))
    for task_samples in (made, alone):
        kept = back["j", task_samples.task]
        for name in ("right", "lengths", "greedy"):
            assert getattr(kept, name) == getattr(task_samples, name), name
        assert score_documents(kept, "acc") == score_documents(task_samples, "acc") == kept.metrics["acc"]
    assert made.right[0] == (0, 1)
    assert alone.greedy == (True,) * 4 + (False,) * 5


def test_samples_that_were_published_before_these_columns_are_read() -> None:
    made = task(with_evidence(rows(9, 4)), job="j")
    table = samples.read_table(samples.to_parquet([made]))
    sink = io.BytesIO()
    pq.write_table(table.drop_columns(list(samples.EVIDENCE)), sink)
    older = samples.from_parquet(sink.getvalue())["j", "piqa"]
    assert older == made
    assert (older.right, older.lengths, older.greedy) == ((), (), ())
    again = samples.from_parquet(samples.to_parquet([older]))["j", "piqa"]
    assert again.right == (None,) * 9
    with pytest.raises(MissingEvidenceError, match="which answers are right was not kept"):
        score_documents(again, "acc")


@pytest.mark.parametrize("published", [False, True])
def test_a_score_that_its_answers_do_not_explain_is_a_change_in_the_history_as_well(
    tmp_path: Path, published: bool
) -> None:
    """The document's answer moved, but not so far that another one is the likeliest: its score may not move."""
    moved = with_evidence(rows(400, 300))
    moved[7]["loglikelihoods"][0] -= 0.5
    moved[7]["metrics"] = {"acc": 0.0}
    names = ("20260101T010000Z-00000001", "20260102T010000Z-00000002")
    history = open_history(str(tmp_path / "history"))
    nights = []
    for name, log in zip(names, (with_evidence(rows(400, 300)), moved), strict=True):
        path = make_run(tmp_path / "store", name, {"piqa": log})
        publish(path, history.place)
        local = compare.from_store(record.read_run(path), path.parent)
        nights.append(compare.from_history(history, history.find(name)) if published else local)
    value = published_value(job=STRICT_JOB, documents=None, printed="0.7500")
    before, now = nights
    (row,) = compare.numbers(before, now, [value], CONSTANTS)
    assert row["compared"] == "CHANGED"
    assert "1 of 400 documents score otherwise, though their answers do not say so" in row["because"]


def test_the_order_of_the_log_does_not_matter() -> None:
    assert task(rows(9, 4)) == task(rows(9, 4)[::-1])


@pytest.mark.parametrize("content", ["{}", "[]", "not json", '{"doc_id": 1', "[" * 100_000])
def test_what_is_no_log_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "piqa.jsonl").write_text(content + "\n")
    with pytest.raises(HistoryError, match=r"piqa\.jsonl: not a log of samples"):
        samples.read_logs("j", tmp_path)


def test_a_pipe_among_the_logs_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "piqa.jsonl")
    with pytest.raises(HistoryError, match=r"piqa\.jsonl: cannot be read: is a pipe"):
        samples.read_logs("j", tmp_path)
    os.mkfifo(tmp_path / "piqa.answers.jsonl.gz")
    with pytest.raises(HistoryError, match=r"answers\.jsonl\.gz: answers cannot be read: OSError.*is a pipe"):
        read_answers_file(tmp_path / "piqa.answers.jsonl.gz")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"lengths": [5]}, "lengths .5. are not those of its 2 answers"),
        ({"lengths": [5, 6, 7]}, "lengths .5, 6, 7. are not those of its 2 answers"),
        ({"lengths": [5, -6]}, "lengths .5, -6. are not those of its 2 answers"),
        ({"right": [2]}, "right .2. are no indices of its 2 answers"),
        ({"right": [0, -1]}, "right .0, -1. are no indices of its 2 answers"),
    ],
)
def test_evidence_that_does_not_fit_the_answers_is_no_log(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    (tmp_path / "piqa.jsonl").write_text(json.dumps({**rows(1, 1)[0], **changes}) + "\n")
    with pytest.raises(HistoryError, match=rf"piqa\.jsonl: not a log of samples: ValueError: doc_id 0: {said}"):
        samples.read_logs("j", tmp_path)


def test_a_target_that_is_no_index_says_nothing_of_the_right_answer() -> None:
    made = task([{**rows(1, 1)[0], "target": target} for target in (-1, 2)])
    assert made.right == (None, None)
    single = {**rows(1, 1)[0], "loglikelihoods": [-1.0], "is_greedy": [True], "right": [42]}
    assert task([single]).greedy == (True,)


def test_the_answers_of_the_stand_ins_are_read(tmp_path: Path) -> None:
    kept = Path(__file__).parents[2] / "expected" / "embedded" / "mamba1-tiny.answers.jsonl.gz"
    _, rows, found = read_answers_file(kept)
    assert len(found["lambada_openai"].doc_ids) == len(rows["lambada_openai"]) == 200
    cut = tmp_path / "cut.gz"
    cut.write_bytes(kept.read_bytes()[:1000])
    with pytest.raises(HistoryError, match=r"cut\.gz: answers cannot be read"):
        read_answers_file(cut)
    for content in (json.dumps({"task": "x"}), "[" * 100_000):
        cut.write_bytes(gzip.compress(content.encode()))
        with pytest.raises(HistoryError, match=r"cut\.gz"):
            read_answers_file(cut)


HEADER = {"task": "", "probe_tokens": [1, 2], "dtype": "float32"}


@pytest.mark.parametrize("tokens", [3, "12", True, 1.5, {"a": 1}, ["a"], [1.5], [True], [[1]], [None]])
def test_tokens_of_the_probe_that_are_none_are_refused_with_the_file(tmp_path: Path, tokens: object) -> None:
    odd = tmp_path / "odd.gz"
    odd.write_bytes(gzip.compress(json.dumps({**HEADER, "probe_tokens": tokens}).encode()))
    with pytest.raises(HistoryError, match=r"odd\.gz: answers cannot be read: ValueError: probe_tokens is .*, no list"):
        read_answers_file(odd)


@pytest.mark.parametrize("place", [1, 2])
def test_what_is_said_of_all_answers_is_said_in_the_first_line_and_once(tmp_path: Path, place: int) -> None:
    lines = [HEADER, *({"task": "piqa", **row} for row in rows(2, 1))]
    answers = tmp_path / "answers.gz"
    answers.write_bytes(gzip.compress("".join(json.dumps(line) + "\n" for line in lines).encode()))
    header, _, _ = read_answers_file(answers)
    assert header == {**HEADER, "probe_tokens": (1, 2)}
    lines.insert(place, {**HEADER, "probe_tokens": [7]})
    answers.write_bytes(gzip.compress("".join(json.dumps(line) + "\n" for line in lines).encode()))
    with pytest.raises(HistoryError, match=rf"answers\.gz: .*line {place + 1} speaks of all answers"):
        read_answers_file(answers)


def test_an_answer_that_is_recorded_twice_is_refused(tmp_path: Path) -> None:
    row = {"task": "piqa", **rows(1, 1)[0]}
    twice = tmp_path / "twice.gz"
    twice.write_bytes(gzip.compress(f"{json.dumps(row)}\n{json.dumps(row)}\n".encode()))
    with pytest.raises(HistoryError, match=r"twice\.gz: answers cannot be read: ValueError: piqa: doc_id 0 is there"):
        read_answers_file(twice)
