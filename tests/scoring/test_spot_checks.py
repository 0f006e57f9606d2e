"""The spot check: which requests it picks, what it takes for rounding, and which faults it sees."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scanproof.numbers.verdict.engines import NO_SPOT
from tests.support import small_scoring as small
from tests.support.late import Late

if TYPE_CHECKING:
    import torch

    from scanproof import scoring
    from scanproof.models import layers
    from scanproof.scoring import spot_checks
else:
    torch, scoring, spot_checks = Late("torch"), Late("scanproof.scoring"), Late("scanproof.scoring.spot_checks")
    layers = Late("scanproof.models.layers")

PAIRS = [([5, 6, 7, 8, *range(20, 20 + length)], [number, 1, 2]) for length in range(9) for number in range(40, 44)]


@given(st.integers(0, 200), st.integers(0, 20))
def test_places_are_spread_from_the_first_to_the_last(count: int, wanted: int) -> None:
    found = list(spot_checks.pick_evenly(count, wanted))
    assert len(found) == min(count, wanted) == len(set(found))
    assert found == sorted(found)
    if len(found) > 1:
        assert (found[0], found[-1]) == (0, count - 1)
        steps = [right - left for left, right in pairwise(found)]
        assert max(steps) - min(steps) <= 1


def answered(*values: float, tokens: int = 1) -> list[spot_checks.SampledAnswer]:
    return [spot_checks.SampledAnswer([1], [2] * tokens, value) for value in values]


def saying(*values: float) -> spot_checks.Plain:
    """A plain engine that answers these values."""
    return lambda asked: [(value, False) for value in values]


def test_the_request_that_is_furthest_apart_is_told() -> None:
    found = spot_checks.find_largest_difference(saying(-1.0, -2.0, -3.0), answered(-1.0, -2.5, -3.2), torch.float32)
    assert found is not None
    assert (found.requests, found.shared, found.plain, found.differs) == (3, -2.5, -2.0, True)
    assert str(found) == (
        "of 3 requests that plain scored as well, one got -2.5 by shared and -2 by plain, "
        "where 0.001 nats are rounding"
    )  # fmt: skip


def test_rounding_grows_with_the_coarseness_of_a_dtype_the_number_of_tokens_and_the_sum() -> None:
    def differs(dtype: torch.dtype, apart: float = 0.35, tokens: int = 1, value: float = -9.0) -> bool:
        found = spot_checks.find_largest_difference(
            saying(value, value), answered(value, value - apart, tokens=tokens), dtype
        )
        assert found is not None
        return found.differs

    assert [differs(each) for each in (torch.float32, torch.float16, torch.bfloat16)] == [True, True, True]
    assert [differs(torch.bfloat16, tokens=count) for count in (1, 4)] == [True, False]
    # One rounding step of bfloat16 at that value.
    assert [differs(torch.bfloat16, 4.0, 180, value) for value in (-10.0, -540.0)] == [True, False]


@pytest.mark.parametrize(
    ("device", "has_ssd", "allowed"), [("cpu", True, False), ("cuda", True, True), ("cuda", False, False)]
)
def test_float32_on_a_gpu_may_differ_as_float16_does_where_ssd_multiplies(
    device: str, has_ssd: bool, allowed: bool
) -> None:
    """Seen on an H100 in mamba2-tiny, where SSD multiplies in TF32: -8.54801 and -8.54654 nats of one request."""
    dtype = spot_checks.precision_of(torch.float32, torch.device(device), has_ssd=has_ssd)
    spot = spot_checks.find_largest_difference(saying(-8.54654), answered(-8.54801), dtype)
    assert spot is not None
    assert (spot.nats <= spot.allowed) is allowed


@pytest.mark.parametrize(("shared", "plain"), [(math.nan, -1.0), (-1.0, math.nan), (-math.inf, -1.0)])
def test_what_is_no_number_differs_and_is_no_noise(shared: float, plain: float) -> None:
    found = spot_checks.find_largest_difference(saying(plain, -2.0), answered(shared, -2.0), torch.bfloat16)
    assert found is not None
    assert (found.differs, found.nats) == (True, math.inf)


def test_what_is_impossible_to_both_is_no_difference() -> None:
    assert spot_checks.find_largest_difference(saying(-math.inf), answered(-math.inf), torch.float32) is None
    found = spot_checks.find_largest_difference(saying(-math.inf, -2.0), answered(-math.inf, -2.0), torch.float32)
    assert found is not None
    assert (found.nats, found.differs) == (0.0, False)


def test_no_memory_for_the_check_leaves_a_note_and_the_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lm = small.model(tmp_path, "mamba2")
    with small.installed(lm) as tally:
        lm._loglikelihood_tokens(small.numbered(PAIRS), disable_tqdm=True)

    def full(*_: Any, **__: Any) -> Any:
        raise torch.OutOfMemoryError("planted")

    monkeypatch.setattr(lm, "_model_call", full)
    assert scoring.spot_check(lm, tally) is None
    assert tally.notes == [NO_SPOT]


def test_nothing_sampled_is_nothing_checked() -> None:
    assert spot_checks.find_largest_difference(saying(), [], torch.float32) is None


def checked(lm: Any) -> Any:
    with small.installed(lm) as tally:
        lm._loglikelihood_tokens(small.numbered(PAIRS), disable_tqdm=True)
    assert len(tally.sampled) == spot_checks.REQUESTS
    return scoring.spot_check(lm, tally)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", ["mamba1", "mamba2attn", "pythia", "mamba2_hybrid"])
def test_right_engines_are_no_further_apart_than_rounding(tmp_path: Path, name: str, dtype: str) -> None:
    found = checked(small.model(tmp_path, name, dtype=dtype))
    assert (found.requests, found.differs) == (spot_checks.REQUESTS, False)
    assert found.nats < (small.CLOSE if dtype == "float32" else 0.5)


def plain_loses_its_skip(patch: pytest.MonkeyPatch) -> None:
    """A fault in the mixer's own `forward`, which the engine does not call."""
    forward = layers.Mamba1.forward

    def wrong(self: Any, *args: Any, **kwargs: Any) -> Any:
        with torch.no_grad():
            kept = self.D.clone()
            self.D.zero_()
            try:
                return forward(self, *args, **kwargs)
            finally:
                self.D.copy_(kept)

    patch.setattr("scanproof.models.layers.Mamba1.forward", wrong)


@pytest.mark.parametrize(("fault", "name"), [(small.forgotten_scan_state, "mamba2"), (plain_loses_its_skip, "mamba1")])
def test_a_fault_of_either_engine_is_seen(
    fault: Callable[[pytest.MonkeyPatch], None], name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lm = small.model(tmp_path, name)
    fault(monkeypatch)
    assert checked(lm).differs


def test_later_calls_fill_up_what_the_first_left(tmp_path: Path) -> None:
    lm = small.model(tmp_path, "mamba2")
    with small.installed(lm) as tally:
        for start in (0, 3, 6):
            lm._loglikelihood_tokens(small.numbered(PAIRS[start : start + 3]), disable_tqdm=True)
    assert [each.continuation[0] for each in tally.sampled] == [40, 41, 42, 43, 40, 41, 42, 40]
