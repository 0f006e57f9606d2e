"""A drift over nights: found with the night it began, and clean nights are quiet."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scanproof.history import drift, new_baseline, nights
from scanproof.history.publish import publish
from scanproof.history.store import History, open_history
from tests.support.builders import CONSTANTS
from tests.support.late import Late
from tests.support.small_history import STRICT_JOB, make_run, rows

if TYPE_CHECKING:
    from scipy import stats
else:
    stats = Late("scipy.stats")

TASKS = ("piqa", "arc_easy", "winogrande", "boolq", "race")
SERIES = st.lists(st.floats(0, 1), min_size=0, max_size=40)


def test_a_step_is_found_on_its_night() -> None:
    random = np.random.default_rng(3)
    series = list(0.5 + random.normal(0, 0.001, 60) - 0.01 * (np.arange(60) >= 40))
    found = drift.find(series, 0.005)
    assert found is not None
    assert (found.began, found.shape) == (40, "step")
    assert found.now == pytest.approx(0.49, abs=0.001)


def test_a_slow_drift_is_found_near_the_night_it_began() -> None:
    random = np.random.default_rng(4)
    series = list(0.5 + random.normal(0, 0.0005, 100) - 0.0003 * np.maximum(0, np.arange(100) - 60))
    found = drift.find(series, 0.004)
    assert found is not None
    assert found.shape == "ramp"
    assert abs(found.began - 60) <= 6
    assert found.now == pytest.approx(0.4888, abs=0.001)


@pytest.mark.parametrize("night", [0, 30, 59])
def test_one_bad_night_is_no_drift(night: int) -> None:
    series = [0.5] * 60
    series[night] = 0.48
    assert drift.find(series, 0.005) is None


@given(SERIES, st.floats(0, 1))
def test_up_and_down_are_alike_and_a_wider_allowance_finds_no_more(series: list[float], allowed: float) -> None:
    found = drift.find(series, allowed)
    assert (drift.find([-value for value in series], allowed) is None) == (found is None)
    if found is None:
        assert drift.find(series, allowed * 2) is None
    else:
        assert drift.SHORTEST <= found.began <= len(series) - drift.SHORTEST


@given(st.integers(10, 20_000), st.integers(10, 1000))
def test_more_nights_allow_more_and_more_documents_less(documents: int, count: int) -> None:
    level = CONSTANTS.drift_level(1)
    assert drift.allowed_share(documents, 0.02, level, count) <= drift.allowed_share(documents, 0.02, level, count + 1)
    assert drift.allowed_share(documents + 1, 0.02, level, count) <= drift.allowed_share(
        documents, 0.02, level, count
    ) * (1 + 1e-9)
    assert drift.allowed_log(0.002, level, count) < drift.allowed_log(0.002, level, count + 1)


@pytest.mark.parametrize("kept", [1, 20], ids=["each night alone", "a driver keeps its flips"])
def test_clean_series_are_quiet(kept: int) -> None:
    """2,000 series of 60 nights at 1 in 20: correct nights differ by flips, new ones or those of a driver."""
    random = np.random.default_rng(11)
    documents, rate, level, size = 1000, 0.02, 0.05, 2000
    allowed = drift.allowed_share(documents, rate, level, 60)
    # Two nights differ by flips of rate * documents; each alone by half of them.
    flipped = random.poisson(rate * documents / 2, (size, 60 // kept))
    net = np.repeat((2 * random.binomial(flipped, 0.5) - flipped) / documents, kept, axis=1)
    alarms = sum(drift.find(list(0.6 + row), allowed) is not None for row in net)
    assert stats.beta.ppf(0.99, alarms + 1, size - alarms) <= level


def published(tmp_path: Path, right: list[int], **changes: object) -> History:
    history = open_history(str(tmp_path / "history"))
    for index, count in enumerate(right):
        name = f"202601{index + 1:02}T010000Z-{index:08}"
        logs = {task: rows(400, count) for task in TASKS}
        publish(make_run(tmp_path / "store", name, logs, **changes), history.place)  # type: ignore[arg-type]
    return history


def test_a_drift_is_flagged_with_its_night_for_the_model_before_any_number(tmp_path: Path) -> None:
    """8 of 400 documents: within every number's noise, beyond that of five tasks together."""
    history = published(tmp_path, [300] * 8 + [292] * 6)
    found = nights.drifts(history, CONSTANTS).rows
    assert [row["kind"] for row in found] == ["model"]
    assert found[0]["run"] == "20260109T010000Z-00000008"
    assert found[0]["series"] == "state-spaces/mamba-130m"
    assert "changed on 2026-01-09" in nights.sentence(found[0])


def test_steady_nights_are_quiet_and_few_nights_say_nothing(tmp_path: Path) -> None:
    assert nights.drifts(published(tmp_path / "a", [300, 298, 301] * 4), CONSTANTS).rows == []
    assert nights.drifts(published(tmp_path / "b", [300] * 4 + [200] * 4), CONSTANTS).rows == []
    assert nights.drifts(open_history(str(tmp_path / "none")), CONSTANTS).rows == []


@pytest.mark.parametrize("documents", [3, 500], ids=["a limit of the job", "another dataset"])
def test_a_night_of_other_documents_does_not_end_a_series(tmp_path: Path, documents: int) -> None:
    """It hid a drift: a series of nights with unequal documents was left out, and nothing said so."""
    history = published(tmp_path, [300] * 8)
    limited = replace(STRICT_JOB, limit=3) if documents == 3 else STRICT_JOB
    odd = {task: rows(documents, documents) for task in TASKS}
    publish(make_run(tmp_path / "store", "20260109T010000Z-99999999", odd, job=limited), history.place)
    for index in range(6):
        logs = {task: rows(400, 250) for task in TASKS}
        publish(make_run(tmp_path / "store", f"202602{index + 1:02}T010000Z-{index:08}", logs), history.place)
    found = nights.drifts(history, CONSTANTS)
    assert {row["kind"] for row in found.rows} == {"number", "model"}
    assert {row["run"] for row in found.rows} == {"20260201T010000Z-00000000"}
    assert {row["nights"] for row in found.rows} == {14}
    assert found.other_documents == ()


@pytest.mark.parametrize("documents", [3, 500])
def test_numbers_whose_newest_night_has_other_documents_are_named(tmp_path: Path, documents: int) -> None:
    """Their series begins anew: nothing was looked at, which is not the same as no drift."""
    history = published(tmp_path, [300] * 11)
    odd = {task: rows(documents, documents) for task in TASKS}
    publish(make_run(tmp_path / "store", "20260201T010000Z-99999999", odd), history.place)
    found = nights.drifts(history, CONSTANTS)
    assert (len(found.other_documents), found.gpus[0].series, found.rows) == (len(TASKS), 0, [])


def test_declaring_a_baseline_accepts_what_came_before(tmp_path: Path) -> None:
    history = published(tmp_path, [300] * 8 + [292] * 12)
    assert nights.drifts(history, CONSTANTS).rows != []
    new_baseline.declare(history, history.find("20260109"), "a faster kernel, looked at")
    assert nights.drifts(history, CONSTANTS).rows == []


def test_nights_of_another_gpu_are_another_series(tmp_path: Path) -> None:
    history = published(tmp_path, [300] * 8)
    environment = {"packages": {"lm-eval": "0.4.13"}, "gpus": [{"name": "NVIDIA A100"}]}
    for index in range(8):
        name = f"202602{index + 1:02}T010000Z-{index:08}"
        logs = {task: rows(400, 270) for task in TASKS}
        publish(make_run(tmp_path / "other", name, logs, environment=environment), history.place)
    found = nights.drifts(history, CONSTANTS)
    assert found.rows == []
    assert found.gpus == (nights.OnGpu("NVIDIA A100", 8, 0), nights.OnGpu("NVIDIA H200", 8, 0))


def test_every_gpu_is_looked_at_whichever_ran_last(tmp_path: Path) -> None:
    """A night on a CPU, or of a clock that was ahead, hid every drift of the GPU."""
    history = published(tmp_path, [300] * 8 + [250] * 6)
    publish(make_run(tmp_path / "cpu", "20260201T010000Z-99999999", environment={"packages": {}}), history.place)
    found = nights.drifts(history, CONSTANTS)
    assert {(row["gpu"], row["run"]) for row in found.rows} == {("NVIDIA H200", "20260109T010000Z-00000008")}
    assert {row["kind"] for row in found.rows} == {"number", "model"}
    assert found.gpus == (nights.OnGpu("cpu", 1, 0), nights.OnGpu("NVIDIA H200", 14, len(TASKS) + 1))


def test_a_baseline_of_one_job_begins_no_series_of_another(tmp_path: Path) -> None:
    """Its declaration moved the start of all series, and an older drift of another job was accepted with it."""
    history = published(tmp_path, [300] * 8 + [292] * 6)
    other = replace(STRICT_JOB, name="002-other-0shot", pretrained="other/model")
    name = "20260114T020000Z-99999999"
    publish(make_run(tmp_path / "other", name, {"arc_challenge": rows(400, 300)}, job=other), history.place)
    new_baseline.declare(history, history.find(name), "the other model's first night")
    found = nights.drifts(history, CONSTANTS)
    assert {row["run"] for row in found.rows} == {"20260109T010000Z-00000008"}
    assert found.gpus == (nights.OnGpu("NVIDIA H200", 14, len(TASKS) + 1),)
    new_baseline.declare(history, history.find("20260109"), "a faster kernel, looked at")
    found = nights.drifts(history, CONSTANTS)
    assert (found.rows, found.gpus) == ([], (nights.OnGpu("NVIDIA H200", 6, 0),))


def test_a_perplexity_drifts_by_its_logarithm() -> None:
    series = nights.Series("n", "cpu", "number", ("a",) * 20, (math.log(8.0),) * 10 + (math.log(8.2),) * 10, 5153, True)
    allowed = nights.allowed(series, CONSTANTS, CONSTANTS.drift_level(1))
    change = drift.find(series.values, allowed)
    assert change is not None
    row = nights.row(series, change, {"a": "2026"})
    assert (row["before"], row["now"]) == (8.0, 8.2)
