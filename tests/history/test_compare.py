"""Two runs side by side where a run holds the answers of several models to one task."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from scanproof import record
from scanproof.history import compare
from scanproof.history.errors import HistoryError
from tests.support.builders import published
from tests.support.small_history import STRICT_JOB, make_run, rows, task

VALUE = published(job=STRICT_JOB, task="piqa", documents=400)
OTHER = "zz-another-model"
"""Sorted behind the number's own job."""


def read_night(folder: Path, *, right: int) -> compare.Whole:
    """A run with 400 documents of piqa, answered by the number's model and by another that is always wrong."""
    path = make_run(folder, "20260101T010000Z-00000001", {"piqa": rows(400, right)})
    whole = compare.from_store(record.read_run(path), path.parent)
    return replace(whole, samples={**whole.samples, (OTHER, "piqa"): task(rows(400, 0), job=OTHER)})


def test_flipped_documents_are_those_of_the_numbers_own_model(tmp_path: Path) -> None:
    before, now = read_night(tmp_path / "before", right=300), read_night(tmp_path / "now", right=302)
    flipped = compare.flipped(before, now, VALUE)
    assert [(row["doc_id"], row["score_before"], row["score_now"]) for row in flipped] == [
        (300, 0.0, 1.0),
        (301, 0.0, 1.0),
    ]


def test_a_metric_that_was_not_kept_is_said(tmp_path: Path) -> None:
    before, now = read_night(tmp_path / "before", right=300), read_night(tmp_path / "now", right=300)
    with pytest.raises(HistoryError, match="acc_norm was not kept per document on both sides"):
        compare.flipped(before, now, replace(VALUE, metric="acc_norm"))
