"""Constants estimated from pairs: the planted rate is found, planted faults are named, the file agrees."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from statistics import NormalDist
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import yaml

from scanproof.numbers.audit.calibration import (
    Estimate,
    calibrate,
    calibration_yaml,
    cross_pairs,
    disagreements,
    paper_pairs,
)
from scanproof.numbers.audit.likelihood import Spread, combined, effective_rate, fit_spread, flip_curve
from scanproof.numbers.expected.reader import load
from scanproof.numbers.values import PublishedValue
from tests.support.builders import CONSTANTS, published

EXPECTED = Path(__file__).parents[2] / "expected"
SIZES = {"piqa": 1838, "arc_easy": 2376, "winogrande": 1267, "lambada_openai": 5153, "hellaswag": 10042}


def collection(flip_rate: float, sd: float = 0.001, models: int = 9, seed: int = 0) -> list[PublishedValue]:
    """Paper and reproduction of several models whose documents flip at `flip_rate`; the last in another harness."""
    random = np.random.default_rng(seed)
    values = []
    for number in range(models):
        model = f"lab/mamba-{number}"
        what = {"model": model, "hub_id": model}
        for task, n in SIZES.items():
            right = int(n * random.uniform(0.3, 0.8))
            flipped = [right + int(random.choice((-1, 1), random.binomial(n, flip_rate)).sum()) for _ in range(2)]
            common = {**what, "task": task, "documents": n}
            values += [
                published(**common, origin="paper", unit="percent", printed=f"{100 * right / n:.1f}"),
                published(**common, printed=f"{flipped[0] / n:.4f}"),
            ]
            if number == 0:
                row = {"document": "003", "origin": "author", "harness": "unknown", "unit": "percent"}
                values.append(published(**common, **row, printed=f"{100 * flipped[1] / n:.1f}"))
        perplexity = {
            **what,
            "task": "lambada_openai",
            "metric": "perplexity",
            "unit": "raw",
            "documents": 5153,
        }
        second = 10 * np.exp(random.normal(0, sd))
        values += [
            published(**perplexity, origin="paper", printed="10.00"),
            published(**perplexity, printed=f"{second:.4f}"),
        ]
    return values


def run(values: list[PublishedValue]) -> Any:
    expected: Any = SimpleNamespace(values=tuple(values), constants=CONSTANTS)
    return calibrate(expected)


@pytest.mark.parametrize("flip_rate", [0.003, 0.02])
def test_a_planted_flip_rate_is_found(flip_rate: float) -> None:
    found = [run(collection(flip_rate, seed=seed)).same for seed in range(6)]
    medians = [dict(estimate.figures)["median_of_models"] for estimate in found]
    assert np.median(medians) == pytest.approx(flip_rate, rel=0.25)
    assert all(flip_rate * 0.8 < estimate.value < flip_rate * 5 for estimate in found)
    assert all(estimate.pairs == 45 and not estimate.excluded for estimate in found)


def test_models_that_differ_ask_for_a_higher_rate_than_their_median() -> None:
    narrow, wide = (effective_rate(Spread(0.004, sd), 1e-5) for sd in (0.05, 0.75))
    assert narrow == pytest.approx(0.004, rel=0.05)
    assert wide > 4 * 0.004


def test_the_effective_rate_keeps_the_level_over_all_models() -> None:
    random = np.random.default_rng(1)
    spread, level = Spread(0.004, 0.75), 1e-3
    z = NormalDist().inv_cdf(1 - level / 2)
    rates = 0.004 * np.exp(random.normal(0, 0.75, 1_000_000))
    exceeded = np.abs(random.normal(0, np.sqrt(rates))) > z * math.sqrt(effective_rate(spread, level))
    assert exceeded.mean() == pytest.approx(level, rel=0.15)


def test_a_planted_spread_of_models_is_found() -> None:
    random = np.random.default_rng(2)
    curves = []
    for rate in 0.004 * np.exp(random.normal(0, 0.75, 60)):
        nets = [int(random.choice((-1, 1), random.binomial(n, rate)).sum()) for n in SIZES.values()]
        exact = (flip_curve(range(net, net + 1), range(1), n) for net, n in zip(nets, SIZES.values(), strict=True))
        curves.append(combined(exact))
    spread = fit_spread(curves)
    assert spread.median == pytest.approx(0.004, rel=0.4)
    assert spread.sd == pytest.approx(0.75, abs=0.35)


def test_a_planted_deviation_of_perplexities_lies_between_the_limits() -> None:
    found = [dict(run(collection(0.005, sd=0.002, seed=seed)).perplexity.figures) for seed in range(6)]
    assert sum(figures["lower_limit"] <= 0.002 <= figures["upper_limit"] for figures in found) >= 5


def test_another_harness_is_never_quieter_than_the_same_one() -> None:
    calibration = run(collection(0.02, seed=3))
    assert calibration.other.value >= calibration.same.value


def test_a_wrong_number_is_named_and_does_not_move_the_rate() -> None:
    clean = collection(0.005)
    wrong = [
        replace(value, printed=f"{float(value.printed) + 5:.1f}")
        if (value.model, value.task, value.origin) == ("lab/mamba-3", "hellaswag", "paper")
        else value
        for value in clean
    ]
    before, after = run(clean).same, run(wrong).same
    assert [name for name, _ in after.excluded] == ["mamba-3-hellaswag-acc-paper | mamba-3-hellaswag-acc-reproduced"]
    medians = [dict(estimate.figures)["median_of_models"] for estimate in (before, after)]
    assert medians[1] == pytest.approx(medians[0], rel=0.3)


def test_the_constant_is_rounded_up_to_two_digits() -> None:
    assert Estimate(0.00851, (), 9, (), "").value == 0.0086
    assert Estimate(0.0086, (), 9, (), "").value == 0.0086
    assert Estimate(0.0999, (), 9, (), "").value == 0.1


def test_only_a_named_release_against_another_harness_is_evidence_about_harnesses() -> None:
    row = published(document="003", origin="author", harness="unknown")
    assert len(list(cross_pairs([published(), row]))) == 1
    assert not list(cross_pairs([published(), replace(row, hub_id="state-spaces/mamba-370m")]))
    assert not list(cross_pairs([published(), replace(row, harness="same")]))
    assert not list(cross_pairs([published(harness="other"), row]))


def test_nothing_to_calibrate_from_is_said() -> None:
    with pytest.raises(ValueError, match="no pair of printed numbers"):
        run([published()])


def test_the_constants_in_use_follow_from_the_published_pairs() -> None:
    expected = load(EXPECTED)
    calibration = calibrate(expected)
    assert disagreements(calibration, expected.constants) == ()
    moved = replace(expected.constants, flip_rate_same=0.5)
    assert disagreements(calibration, moved) == (
        f"flip_rate.same.value is 0.5; the pairs give {calibration.same.value:g}",
    )


def test_the_file_holds_the_calibration_that_the_command_prints() -> None:
    expected = load(EXPECTED)
    written = yaml.safe_load((EXPECTED / "tolerance.yaml").read_text())
    date = written["flip_rate"]["same"]["calibration"]["date"]
    printed = yaml.safe_load(calibration_yaml(calibrate(expected), date))
    assert {key: written[key] for key in printed} == printed


def test_every_number_of_the_papers_that_was_reproduced_is_a_pair() -> None:
    values = [value for value in load(EXPECTED).values if value.document == "001"]
    assert len(list(paper_pairs(values))) == sum(value.origin == "paper" for value in values)
