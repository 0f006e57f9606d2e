"""Kullback-Leibler divergence between logits."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.late import Late

if TYPE_CHECKING:
    import torch

    from scanproof.kernels import divergence
else:
    torch, divergence = Late("torch"), Late("scanproof.kernels.divergence")


def test_two_coins() -> None:
    fair, unfair = torch.zeros(1, 1, 2), torch.tensor([[[math.log(3.0), 0.0]]])
    found = divergence.kl_divergence(fair, unfair).mean
    assert found == pytest.approx(0.5 * math.log(0.5 / 0.75) + 0.5 * math.log(0.5 / 0.25))


@given(shift=st.floats(-1e3, 1e3), seed=st.integers(0, 9))
def test_a_shift_of_all_logits_changes_nothing_and_no_divergence_is_negative(shift: float, seed: int) -> None:
    first, second = torch.randn(2, 2, 3, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    found = divergence.kl_divergence(first, second)
    assert divergence.kl_divergence(first, second + shift).mean == pytest.approx(found.mean, abs=1e-9)
    assert 0 < found.mean < found.worst
    assert divergence.kl_divergence(first, first + shift).worst == pytest.approx(0, abs=1e-12)


def test_the_worst_position_is_named_and_the_mean_is_over_all() -> None:
    first = torch.zeros(2, 5, 4)
    second = first.clone()
    second[1, 3, 0] = 2.0
    found = divergence.kl_divergence(first, second)
    assert (found.row, found.position) == (1, 3)
    assert found.mean == pytest.approx(found.worst / 10)
    assert "at row 1, position 3; allowed are 0.002 and 0.02 in bfloat16" in found.excess("bfloat16")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_what_is_not_finite_is_infinitely_far(value: float) -> None:
    second = torch.zeros(1, 2, 4)
    second[0, 1, 2] = value
    found = divergence.kl_divergence(torch.zeros(1, 2, 4), second)
    assert math.isinf(found.worst)
    assert found.excess("float16")


@pytest.mark.parametrize(
    ("dtype", "tf32", "mean", "worst", "passes"),
    [
        ("float32", False, 5e-10, 5e-10, True),
        ("float32", False, 1e-6, 1e-6, False),
        ("float32", True, 1e-3, 1.9e-3, True),
        ("float16", False, 1e-3, 3e-3, False),
        ("bfloat16", False, 1e-3, 1e-2, True),
        ("bfloat16", False, 1e-3, 3e-2, False),
        ("bfloat16", False, 3e-3, 1e-2, False),
    ],
)
def test_bars(dtype: str, tf32: bool, mean: float, worst: float, passes: bool) -> None:
    assert (divergence.Divergence(mean, worst, 0, 0).excess(dtype, tf32) == "") is passes


def test_other_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="cannot be compared"):
        divergence.kl_divergence(torch.zeros(1, 2, 3), torch.zeros(1, 2, 4))
