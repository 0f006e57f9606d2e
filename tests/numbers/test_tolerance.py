"""The first gate: what is allowed, what is detectable, and what becomes of a measurement."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from scanproof.numbers.audit.calibration import Estimate, _entry
from scanproof.numbers.expected.constants import load_constants
from scanproof.numbers.expected.problems import ExpectedError
from scanproof.numbers.values import HarnessRelation, KnownDiscrepancy, Part, PublishedValue, Widening
from scanproof.numbers.verdict.outcome import Outcome
from scanproof.numbers.verdict.tolerance import allowance, compare
from tests.support.builders import CONSTANTS, published

documents = st.integers(10, 200_000)
flip_rates = st.floats(1e-4, 0.3)
shares = st.integers(0, 10_000).map(lambda n: f"{n / 10_000:.4f}")
MEAN_PARTS = (
    Part(task="piqa", metric="acc", documents=1838),
    Part(task="openbookqa", metric="acc_norm", documents=500),
    Part(task="truthfulqa_mc2", metric="acc", documents=817),
)
KNOWN = KnownDiscrepancy(comes_out="0.7000", source="the next row", reason="Printed for another model.")
KINDS = (
    published(),
    published(metric="perplexity", unit="raw", printed="16.07", task="lambada_openai", documents=5153),
    published(task="truthfulqa_mc2", documents=817, binary=False),
    published(task="average", documents=None, parts=MEAN_PARTS),
)


@given(shares, documents, st.floats(0, 0.5))
def test_a_difference_counts_the_same_upwards_and_downwards(printed: str, n: int, difference: float) -> None:
    value = published(printed=printed, documents=n)
    sides = [compare(value, value.expected + sign * difference, CONSTANTS) for sign in (1, -1)]
    possible = [verdict for verdict in sides if verdict.outcome is not Outcome.ERROR]
    assert len({verdict.outcome for verdict in possible}) <= 1


@given(documents, documents, flip_rates)
def test_more_documents_allow_less(n: int, m: int, flip_rate: float) -> None:
    constants = replace(CONSTANTS, flip_rate_same=flip_rate)
    few, many = (allowance(published(documents=k), constants) for k in sorted((n, m)))
    assert many.total <= few.total * (1 + 1e-9)
    assert many.detectable <= few.detectable * (1 + 1e-9)


@given(documents, flip_rates, flip_rates)
def test_more_flips_allow_more(n: int, first: float, second: float) -> None:
    value = published(documents=n)
    low, high = (allowance(value, replace(CONSTANTS, flip_rate_same=rate)) for rate in sorted((first, second)))
    assert low.total <= high.total * (1 + 1e-9)
    assert low.detectable <= high.detectable * (1 + 1e-9)


@given(shares, documents, flip_rates)
def test_never_narrower_than_rounding_and_detectable_is_beyond_allowed(printed: str, n: int, rate: float) -> None:
    value = published(printed=printed, documents=n)
    allowed = allowance(value, replace(CONSTANTS, flip_rate_same=rate))
    assert allowed.total > value.half_unit
    assert allowed.detectable > allowed.total
    assert math.isclose(allowed.total, sum(part.size for part in allowed.parts))
    assert all(part.because for part in allowed.parts)


@given(st.integers(0, 1000), documents)
def test_percent_and_fraction_are_the_same_number(thousandths: int, n: int) -> None:
    fraction = published(printed=f"{thousandths / 1000:.3f}", documents=n)
    percent = published(printed=f"{thousandths / 10:.1f}", unit="percent", documents=n)
    one, other = allowance(fraction, CONSTANTS), allowance(percent, CONSTANTS)
    assert math.isclose(one.total, other.total)
    assert math.isclose(one.detectable, other.detectable)
    assert compare(fraction, 0.5, CONSTANTS).outcome is compare(percent, 0.5, CONSTANTS).outcome


@pytest.mark.parametrize("value", KINDS, ids=lambda value: f"{value.task}-{value.metric}")
def test_the_edge_of_what_is_allowed_is_inside(value: PublishedValue) -> None:
    allowed = allowance(value, CONSTANTS).total
    for sign in (1, -1):
        inside = compare(value, value.expected + sign * allowed, CONSTANTS)
        outside = compare(value, value.expected + sign * allowed * 1.001, CONSTANTS)
        assert inside.outcome is Outcome.REPRODUCED
        assert outside.outcome is Outcome.OUT_OF_TOLERANCE
        assert outside.difference == pytest.approx(sign * allowed * 1.001)


def test_a_difference_is_told_in_documents_and_sigmas() -> None:
    value = published(printed="0.5000", documents=10_000)
    verdict = compare(value, 0.51, CONSTANTS)
    assert verdict.documents_moved == pytest.approx(100)
    assert verdict.sigmas == pytest.approx(10, rel=1e-3)


def test_sigmas_know_how_coarsely_a_number_was_printed() -> None:
    value = published(printed="0.5", documents=1_000_000)
    # What was cut off is spread evenly over one unit of the last digit, whose variance is unit**2 / 12.
    verdict = compare(value, 0.5 + 0.1 / math.sqrt(12), CONSTANTS)
    assert verdict.sigmas == pytest.approx(1, rel=1e-4)


@pytest.mark.parametrize("value", KINDS[1:], ids=lambda value: f"{value.task}-{value.metric}")
def test_what_counts_no_documents_tells_no_documents(value: PublishedValue) -> None:
    assert compare(value, value.expected, CONSTANTS).documents_moved is None


@pytest.mark.parametrize("value", KINDS, ids=lambda value: f"{value.task}-{value.metric}")
@pytest.mark.parametrize("relation", ["other", "unknown"])
def test_another_harness_widens_by_a_part_of_its_own(value: PublishedValue, relation: HarnessRelation) -> None:
    same, other = allowance(value, CONSTANTS), allowance(replace(value, harness=relation), CONSTANTS)
    parts = {part.name: part for part in other.parts}
    assert other.total == pytest.approx(same.total + parts["harness"].size)
    assert parts["harness"].size > 0
    assert "0.03" in parts["harness"].because
    assert other.detectable > same.detectable


def test_a_mean_over_tasks_is_sharper_than_its_smallest_task_and_wider_than_all_documents_pooled() -> None:
    mean = allowance(KINDS[3], CONSTANTS)
    pooled = allowance(published(documents=sum(part.documents or 0 for part in MEAN_PARTS)), CONSTANTS)
    smallest = allowance(published(documents=500), CONSTANTS)
    assert pooled.total < mean.total < smallest.total


def test_a_perplexity_over_fewer_documents_is_noisier() -> None:
    value = KINDS[1]
    quarter = replace(value, documents=5153 // 4)
    noise = [allowance(each, CONSTANTS).parts[1].size for each in (value, quarter)]
    assert noise[1] == pytest.approx(2 * noise[0], rel=1e-3)


def test_a_widening_is_in_the_unit_of_print_and_keeps_its_reason() -> None:
    widened = published(printed="64.5", unit="percent", widened=Widening(by=0.5, reason="two tokenizers"))
    plain = replace(widened, widened=None)
    allowed = allowance(widened, CONSTANTS)
    assert allowed.total == pytest.approx(allowance(plain, CONSTANTS).total + 0.005)
    assert allowed.parts[-1].because == "two tokenizers"


def test_a_known_discrepancy_fails_the_day_it_goes_away() -> None:
    value = published(known_discrepancy=KNOWN)
    there = compare(value, 0.7, CONSTANTS)
    gone = compare(value, value.expected + 0.001, CONSTANTS)
    assert there.outcome is Outcome.KNOWN_DISCREPANCY
    assert there.because.startswith("Printed for another model. It is 0.7000 that comes out, 0 against ")
    assert gone.outcome is Outcome.OUT_OF_TOLERANCE
    assert "remove known_discrepancy from 001/mamba-130m.yaml:12" in gone.because


@pytest.mark.parametrize("widened", [None, Widening(by=0.2, reason="two tokenizers")])
def test_what_is_known_to_come_out_is_bounded_as_a_print_is(widened: Widening | None) -> None:
    """A reason not to believe a print is none to believe whatever is measured."""
    value = published(known_discrepancy=KNOWN, widened=widened)
    allowed = allowance(published(printed=KNOWN.comes_out), CONSTANTS).total
    for measured in (0.7 - 0.99 * allowed, 0.7 + 0.99 * allowed):
        if abs(measured - value.expected) > allowance(value, CONSTANTS).total:
            assert compare(value, measured, CONSTANTS).outcome is Outcome.KNOWN_DISCREPANCY
    for measured in (0.7 + 1.01 * allowed, 0.95, 0.3, 0.145, 0.0, 1.0):
        verdict = compare(value, measured, CONSTANTS)
        assert verdict.outcome is Outcome.OUT_OF_TOLERANCE
    assert "neither as printed nor the 0.7000 that is known to come out (the next row)" in verdict.because


@pytest.mark.parametrize("measured", [None, math.nan, math.inf, -math.inf, -0.01, 1.01])
@pytest.mark.parametrize("known", [None, KNOWN])
def test_no_possible_number_is_an_error_and_never_a_pass(
    measured: float | None, known: KnownDiscrepancy | None
) -> None:
    verdict = compare(published(known_discrepancy=known), measured, CONSTANTS)
    assert verdict.outcome is Outcome.ERROR
    assert verdict.measured is None
    assert verdict.difference is None


def test_a_perplexity_below_one_is_an_error() -> None:
    assert compare(KINDS[1], 0.99, CONSTANTS).outcome is Outcome.ERROR


def test_a_subset_is_not_comparable_however_close() -> None:
    verdict = compare(published(), 0.6453, CONSTANTS, documents=10, limited=True)
    assert verdict.outcome is Outcome.NOT_COMPARABLE
    assert "subset" in verdict.because


def test_a_number_that_cannot_be_compared_gives_its_reason() -> None:
    verdict = compare(published(not_comparable="the checkpoint is gone"), 0.6453, CONSTANTS)
    assert (verdict.outcome, verdict.because) == (Outcome.NOT_COMPARABLE, "the checkpoint is gone")


def test_another_number_of_documents_is_an_error_that_names_both() -> None:
    verdict = compare(published(), 0.6453, CONSTANTS, documents=1837)
    assert verdict.outcome is Outcome.ERROR
    assert "1837" in verdict.because
    assert "1838" in verdict.because


def test_documents_that_nobody_wrote_down_are_taken_from_the_measurement() -> None:
    value = published(documents=None)
    assert compare(value, 0.6453, CONSTANTS, documents=1838).outcome is Outcome.REPRODUCED
    with pytest.raises(ValueError, match="number of documents is unknown"):
        allowance(value, CONSTANTS)


GOOD = """\
false_alarm_rate: 0.01
checks: 1000
power: 0.8
flip_rate:
  same: {value: 0.01, calibration: {date: today, value_is: "0.00995, rounded up to two digits"}}
  other: {value: 0.03, calibration: {date: today, value_is: "0.0297, rounded up to two digits"}}
perplexity:
  documents: 5153
  relative_sd: {value: 0.002, calibration: {date: today, value_is: "0.00192, rounded up to two digits"}}
"""


def problems_of(path: Path, text: str) -> list[tuple[int, str, str]]:
    path.write_text(text)
    with pytest.raises(ExpectedError) as caught:
        load_constants(path)
    assert all(problem.file == str(path) for problem in caught.value.problems)
    return [(problem.line, problem.key, problem.message) for problem in caught.value.problems]


def test_constants_are_read(tmp_path: Path) -> None:
    path = tmp_path / "tolerance.yaml"
    path.write_text(GOOD)
    assert load_constants(path) == CONSTANTS


@pytest.mark.parametrize(
    ("good", "bad", "line", "key", "message"),
    [
        ("checks: 1000", "checks: many", 2, "checks", "write a whole number"),
        ("power: 0.8", "power: 80", 3, "power", "is 80; write a number below 1"),
        ("false_alarm_rate: 0.01", "false_alarm_rate: 0", 1, "false_alarm_rate", "is 0; write 1e-06 or more"),
        (
            "same: {value: 0.01,",
            "same: {",
            5,
            "flip_rate.same.value",
            "is missing; write value: the constant",
        ),
        (
            'other: {value: 0.03, calibration: {date: today, value_is: "0.0297',
            'other: {value: 0.003, calibration: {date: today, value_is: "0.00297',
            6,
            "flip_rate.other.value",
            "cannot be quieter",
        ),
        ("same: {value: 0.01,", "same: {value: 0.1,", 5, "flip_rate.same.value", "is 0.1, but the calibration beside"),
        ("same: {value: 0.01,", "same: {value: 0.011,", 5, "flip_rate.same.value", "says 0.00995, rounded up to two"),
        ("other: {value: 0.03,", "other: {value: 0.029,", 6, "flip_rate.other.value", "says 0.0297, rounded up"),
        ("sd: {value: 0.002,", "sd: {value: 0.02,", 9, "perplexity.relative_sd.value", "correct one of them"),
        (', value_is: "0.0297, rounded up to two digits"', "", 6, "flip_rate.other.calibration.value_is", "is missing"),
        ("0.0297, rounded", "3%, rounded", 6, "flip_rate.other.calibration.value_is", "is 3%, rounded up to"),
        ("power: 0.8", "power: 0.8\nstrength: 1", 4, "strength", "not a key"),
        (
            ', calibration: {date: today, value_is: "0.00995, rounded up to two digits"}}\n  other',
            "}\n  other",
            5,
            "flip_rate.same.calibration",
            "scanproof calibrate",
        ),
    ],
)
def test_a_wrong_constant_is_named_with_its_line(
    tmp_path: Path, good: str, bad: str, line: int, key: str, message: str
) -> None:
    found = problems_of(tmp_path / "tolerance.yaml", GOOD.replace(good, bad))
    assert [(at, name) for at, name, _ in found] == [(line, key)]
    assert message in found[0][2]


@given(st.floats(1e-5, 0.9))
def test_what_calibrate_prints_is_taken(exact: float) -> None:
    estimate = Estimate(exact=exact, figures=(), pairs=1, excluded=(), method="")
    entry = _entry(estimate, "today", "")
    assume(estimate.value < 1)
    said = f'{entry["value"]:.9f}, calibration: {{value_is: "{entry["calibration"]["value_is"]}"}}'
    text = re.sub(r"(?<=value: )[^}]*}", said, GOOD)
    with TemporaryDirectory() as folder:
        path = Path(folder, "tolerance.yaml")
        path.write_text(text)
        assert load_constants(path).flip_rate_same == estimate.value


def test_all_wrong_constants_are_named_at_once(tmp_path: Path) -> None:
    text = GOOD.replace("checks: 1000", "checks: 0").replace("power: 0.8", "power: high")
    assert [key for _, key, _ in problems_of(tmp_path / "tolerance.yaml", text)] == ["checks", "power"]


def test_a_file_that_is_no_yaml_or_not_there_is_named(tmp_path: Path) -> None:
    assert "is not YAML" in problems_of(tmp_path / "tolerance.yaml", "power: [0.8\n")[0][2]
    with pytest.raises(ExpectedError, match="cannot be read"):
        load_constants(tmp_path / "missing.yaml")


@pytest.mark.parametrize(
    ("text", "line", "key", "message"),
    [
        (GOOD.replace("power: 0.8", "power: 0.8\npower: 0.9"), 4, "power", "stands twice"),
        (GOOD.replace("same: {value: 0.01,", "same: {value: 0.5, value: 0.01,"), 5, "value", "stands twice"),
        (GOOD.replace("power: 0.8", "power: 0.8\nflip_rate.same.value: 0.5"), 4, "flip_rate.same.value", "not a key"),
        (GOOD.replace("power: 0.8", "power: !!python/name:os.system 0.8"), 3, "", "tag"),
        (GOOD.replace('today, value_is: "0.00995', 'to\x07day, value_is: "0.00995'), 5, "", "is not YAML"),
        ("# \x00\n" + GOOD, 1, "", "is not YAML"),
    ],
)
def test_what_yaml_would_pass_over_is_named(tmp_path: Path, text: str, line: int, key: str, message: str) -> None:
    ((found_line, found_key, said),) = problems_of(tmp_path / "tolerance.yaml", text)
    assert (found_line, found_key) == (line, key)
    assert message in said


def test_bytes_that_are_not_utf8_are_named(tmp_path: Path) -> None:
    path = tmp_path / "tolerance.yaml"
    path.write_bytes(GOOD.encode().replace(b"date: today", "date: März".encode("latin-1"), 1))
    with pytest.raises(ExpectedError) as caught:
        load_constants(path)
    assert str(caught.value) == f"{path}:5: byte 0xe4 is not UTF-8; save the file as UTF-8"
