"""All printed numbers of a model together against what was measured."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scanproof.numbers.expected import reader
from scanproof.numbers.values import PublishedValue
from scanproof.numbers.verdict import joint_print
from scanproof.numbers.verdict.flip_bounds import net_flips_and_rounding, tail_of_flips_and_rounding
from scanproof.numbers.verdict.tolerance import allowance

EXPECTED = reader.load(Path(__file__).parents[2] / "expected")
CONSTANTS = EXPECTED.constants
PUBLISHED = [value for value in EXPECTED.values if value.job.suite == "gpu"]
GROUPS = joint_print.group_printed(PUBLISHED, CONSTANTS)
LEVEL = CONSTANTS.joint_level(len(GROUPS))
MODEL = "state-spaces/mamba-2.8b"
MEDIAN_RATE, SD_OF_LOGARITHM = 0.00398, 0.75
"""Flip rates over models, as `expected/tolerance.yaml` has them from the printed pairs."""


def as_printed(model: str = MODEL, shift: float = 0.0) -> dict[str, float]:
    return {value.id: value.expected + shift for value in GROUPS[model].values}


def verdicts(measured: Mapping[str, float]) -> dict[str, bool]:
    return {each.subject: each.changed for each in joint_print.judge_models(PUBLISHED, measured, CONSTANTS)}


def test_a_shift_of_every_number_within_its_own_tolerance_is_seen() -> None:
    """What no single number shows."""
    shift = -0.0065
    assert all(abs(shift) < allowance(value, CONSTANTS).total for value in GROUPS[MODEL].values)
    assert verdicts(as_printed(shift=shift)) == {MODEL: True}
    assert verdicts(as_printed(shift=-shift)) == {MODEL: True}
    assert verdicts(as_printed()) == {MODEL: False}


def test_the_message_says_how_many_documents_and_points() -> None:
    (finding,) = joint_print.judge_models(PUBLISHED, as_printed(shift=-0.0065), CONSTANTS)
    assert finding.because.startswith("7 printed numbers of 22348 documents: net -145.3 documents, -0.650 points")
    assert finding.baseline == "what was printed"


@pytest.mark.parametrize("model", sorted(GROUPS))
def test_a_common_shift_is_seen_sooner_than_by_the_best_single_number(model: str) -> None:
    numbers = GROUPS[model]
    best = min(allowance(value, CONSTANTS).detectable for value in numbers.values)
    assert numbers.detectable(LEVEL, CONSTANTS.power) < 0.82 * best


def test_no_document_counts_twice() -> None:
    """Two prints of one number, two metrics of one task, a group and its parts."""
    for numbers in GROUPS.values():
        tasks = [(value.task, value.job.num_fewshot) for value in numbers.values]
        assert len(tasks) == len(set(tasks))
        assert not any(a != b and a[1] == b[1] and a[0].startswith(f"{b[0]}_") for a in tasks for b in tasks)
    stand_ins = [value for value in EXPECTED.values if value.model == "mamba1-tiny"]
    (numbers,) = joint_print.group_printed(stand_ins, CONSTANTS).values()
    names = [value.task for value in numbers.values]
    assert "mmlu" in names
    assert "mmlu_stem" not in names
    assert names.count("piqa") == 1


def test_parts_of_a_group_are_known_by_their_tasks_and_not_by_their_names() -> None:
    stand_ins = {value.id: value for value in EXPECTED.values if value.model == "mamba1-tiny"}
    whole, stem = (stand_ins[f"mamba1-tiny-{task}-acc-embedded"] for task in ("mmlu", "mmlu_stem"))
    renamed = replace(stem, task="other_name")
    assert joint_print.drop_parts((renamed, whole)) == (whole,)
    alone = replace(stand_ins["mamba1-tiny-piqa-acc-embedded"], task="mmlu_like", parts=())
    assert joint_print.drop_parts((whole, alone)) == (whole, alone)
    assert joint_print.drop_parts((whole, replace(whole, task="again"))) == (whole,)


def test_numbers_that_cannot_come_out_are_left_out() -> None:
    known = {value.id for value in PUBLISHED if value.known_discrepancy or value.not_comparable or value.widened}
    assert known
    assert not known & {value.id for numbers in GROUPS.values() for value in numbers.values}
    assert not any(value.metric == "perplexity" for numbers in GROUPS.values() for value in numbers.values)


def test_one_number_alone_has_no_joint_test() -> None:
    one, *_ = GROUPS[MODEL].values
    assert joint_print.judge_models(PUBLISHED, {one.id: one.expected}, CONSTANTS) == ()


def test_reproductions_agree_with_papers() -> None:
    """The printed pairs: a model's reproduction as if it had been measured, against its paper."""
    prints: dict[tuple[str, str, str], dict[str, PublishedValue]] = {}
    for value in filter(joint_print.can_be_added, PUBLISHED):
        prints.setdefault((joint_print.model_of(value), value.task, value.metric), {})[value.origin] = value
    pairs = [(both["paper"], both["reproduced"]) for both in prints.values() if {"paper", "reproduced"} <= set(both)]
    papers = [paper for paper, _ in pairs]
    findings = joint_print.judge_models(papers, {a.id: b.expected for a, b in pairs}, CONSTANTS)
    assert len(findings) >= 9
    assert not any(finding.changed for finding in findings)
    # All of one sign: the reproductions lie a little below the papers.  That is far below what is allowed.
    assert max(abs(finding.tests[0].shift or 0.0) for finding in findings) < 0.001


def test_ten_thousand_clean_nights_are_quiet() -> None:
    """With flip rates drawn anew for every model and night, as the printed pairs show them, and rounded prints."""
    import numpy as np

    nights, draw = 10_000, np.random.default_rng(20261126)
    for numbers in GROUPS.values():
        rates = np.exp(draw.normal(math.log(MEDIAN_RATE), SD_OF_LOGARITHM, nights))
        net = np.zeros(nights)
        for value in numbers.values:
            n = value.documents or 0
            net += draw.poisson(rates * n / 2) - draw.poisson(rates * n / 2)
            net += n * value.half_unit * draw.uniform(-1, 1, nights)
        assert not (np.abs(net) > numbers.bound(LEVEL / 2)).any(), numbers.model


def test_the_detectable_shift_is_caught_in_four_of_five_nights() -> None:
    """At the flip rate that the bound assumes."""
    import numpy as np

    nights, draw, numbers = 4_000, np.random.default_rng(1), GROUPS[MODEL]
    shift = numbers.detectable(LEVEL, CONSTANTS.power) * numbers.documents
    flips = draw.poisson(numbers.flips / 2, nights) - draw.poisson(numbers.flips / 2, nights)
    caught = (flips + shift > numbers.bound(LEVEL / 2)).mean()
    assert 0.78 < caught < 0.84


@given(st.floats(0.5, 1e4), st.floats(0.0, 1e4), st.floats(1e-9, 0.4))
def test_tail_and_bound_are_each_other_s_inverse(flips: float, variance: float, tail: float) -> None:
    bound = net_flips_and_rounding(flips, variance, tail)
    assert tail_of_flips_and_rounding(flips, variance, bound) == pytest.approx(tail, rel=1e-6)
    # A normal variable of this variance is exceeded at least as far.
    assert bound >= math.sqrt(2 * (flips + variance)) * math.sqrt(-math.log(tail)) * 0.7


def test_a_wider_harness_is_allowed_more() -> None:
    other = tuple(replace(value, harness="other") for value in GROUPS[MODEL].values)
    (numbers,) = joint_print.group_printed(other, CONSTANTS).values()
    assert numbers.bound(LEVEL / 2) > 1.4 * GROUPS[MODEL].bound(LEVEL / 2)
