"""Text for the terminal."""

from __future__ import annotations

import re

import pytest

from scanproof.numbers.values import PublishedValue
from scanproof.numbers.verdict import tolerance
from scanproof.plugin import run_recorder
from scanproof.record import Evaluation
from scanproof.report import terminal
from tests.support.builders import CONSTANTS, published

VALUE = published(printed="48.0", unit="percent", task="arc_easy", documents=2376)


def evaluation() -> Evaluation:
    return Evaluation(job=VALUE.job, key="k", measurements=(), samples="runs/r/samples/j", command="lm_eval --model hf")


@pytest.mark.parametrize(
    ("natural", "scale", "printed", "shown"),
    [
        (0.4798, 100, "48.0", "47.98"),
        (0.4798, 1, "0.4798", "0.47980"),
        (16.045, 1, "16", "16.0"),
        (0.5, 100, "50", "50.0"),
    ],
)
def test_a_measurement_shows_one_digit_more_than_was_printed(
    natural: float, scale: float, printed: str, shown: str
) -> None:
    assert terminal.format_as_printed(natural, scale, printed) == shown


def test_a_failure_says_what_a_reader_needs() -> None:
    verdict = tolerance.compare(VALUE, 0.44, CONSTANTS, documents=2376)
    text = terminal.failure_text(VALUE, verdict, evaluation())
    for needed in (
        "44.00 measured, 48.0 expected", "001/mamba-130m.yaml:12", "document 001 line 47", "-4.00 points",
        "-95.0 documents", "sigmas", "rounding", "flips", "2376 documents", "lm_eval --model hf", "runs/r/samples/j",
    ):  # fmt: skip
        assert needed in text


def test_the_table_shows_numbers_that_could_not_be_measured() -> None:
    broken = run_recorder.make_record(VALUE, "node", outcome="ERROR", because="no memory")
    line = terminal.verdict_table([broken], 200, colour=False).splitlines()[1]
    assert line.split()[1:] == ["48.0", "-", "-", "-", "ERROR"]


def test_ids_with_square_brackets_are_shown_as_they_are() -> None:
    odd = run_recorder.make_record(published(suffix="[red]"), "node", outcome="ERROR", because="")
    assert "[red]" in terminal.verdict_table([odd], 200, colour=False)


@pytest.mark.parametrize(
    ("value", "measured", "shown"),
    [
        (published(), 0.6353, "-0.01000 (fraction), -1.00 points, -18.4 documents, "),
        (published(unit="percent", printed="64.53"), 0.6553, "+1.000 points, +18.4 documents, "),
        (published(metric="perplexity", unit="raw", printed="16.07"), 17.07, "+1.000 (raw), "),
    ],
)
def test_a_difference_is_told_in_the_unit_of_print_in_points_and_in_documents(
    value: PublishedValue, measured: float, shown: str
) -> None:
    line = terminal.difference_line(value, tolerance.compare(value, measured, CONSTANTS))
    before, sigmas = line[: len(shown)], line[len(shown) :]
    assert before == shown
    assert re.fullmatch(r"[+-]\d+\.\d sigmas of the noise between two correct runs", sigmas)
