"""Samples to and from Parquet, and the logs they come from."""

from __future__ import annotations

import gzip
import json
import math
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scanproof.history import samples
from scanproof.history.errors import HistoryError
from scanproof.history.recorded_answers import read_answers_file
from tests.support.small_history import rows, task

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


def test_the_order_of_the_log_does_not_matter() -> None:
    assert task(rows(9, 4)) == task(rows(9, 4)[::-1])


@pytest.mark.parametrize("content", ["{}", "[]", "not json", '{"doc_id": 1'])
def test_what_is_no_log_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "piqa.jsonl").write_text(content + "\n")
    with pytest.raises(HistoryError, match=r"piqa\.jsonl: not a log of samples"):
        samples.read_logs("j", tmp_path)


def test_the_answers_of_the_stand_ins_are_read(tmp_path: Path) -> None:
    kept = Path(__file__).parents[2] / "expected" / "embedded" / "mamba1-tiny.answers.jsonl.gz"
    rows, found = read_answers_file(kept)
    assert len(found["lambada_openai"].doc_ids) == len(rows["lambada_openai"]) == 200
    cut = tmp_path / "cut.gz"
    cut.write_bytes(kept.read_bytes()[:1000])
    with pytest.raises(HistoryError, match=r"cut\.gz: answers cannot be read"):
        read_answers_file(cut)
    cut.write_bytes(gzip.compress(json.dumps({"task": "x"}).encode()))
    with pytest.raises(HistoryError, match=r"cut\.gz"):
        read_answers_file(cut)


def test_an_answer_that_is_recorded_twice_is_refused(tmp_path: Path) -> None:
    row = {"task": "piqa", **rows(1, 1)[0]}
    twice = tmp_path / "twice.gz"
    twice.write_bytes(gzip.compress(f"{json.dumps(row)}\n{json.dumps(row)}\n".encode()))
    with pytest.raises(HistoryError, match=r"twice\.gz: answers cannot be read: ValueError: piqa: doc_id 0 is there"):
        read_answers_file(twice)
