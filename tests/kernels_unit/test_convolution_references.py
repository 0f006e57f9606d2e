"""A ring of inputs, packed sequences and their states, by the references of the convolutions."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.exact import close
from tests.support.late import Late
from tests.support.ssd_inputs import random

if TYPE_CHECKING:
    import torch

    from scanproof.kernels.references import convolution, papers
else:
    torch = Late("torch")
    convolution, papers = Late("scanproof.kernels.references.convolution"), Late("scanproof.kernels.references.papers")


@given(seen=st.integers(0, 20), state=st.integers(3, 6), new=st.integers(1, 5))
@settings(max_examples=40)
def test_a_ring_of_inputs_convolves_like_the_whole_sequence(seen: int, state: int, new: int) -> None:
    inputs, weight = random(1, 2, seen + new), random(2, 4)
    ring = torch.zeros(1, 2, state, dtype=torch.float64)
    for position in range(seen):
        ring[..., position % state] = inputs[..., position]
    y, after = convolution.causal_conv1d_update(
        inputs[..., seen:], ring, weight, cache_seqlens=torch.tensor([seen], dtype=torch.int32)
    )
    close(y, papers.causal_conv1d(inputs, weight)[..., seen:])
    for position in range(max(0, seen + new - state), seen + new):
        close(after[..., position % state], inputs[..., position])


@given(lengths=st.lists(st.integers(0, 6), min_size=1, max_size=5), kept=st.integers(1, 8))
@settings(max_examples=30)
def test_the_states_of_packed_sequences_are_inputs_at_their_places(lengths: list[int], kept: int) -> None:
    """By positions in the row instead of by sequences."""
    x, ends = random(sum(lengths), 3), torch.tensor([0, *lengths]).cumsum(0)
    positions = ends[1:, None] - kept + torch.arange(kept)
    there = positions >= ends[:-1, None]
    padded = torch.cat([x, torch.zeros(1, 3, dtype=x.dtype)])
    expected = padded[torch.where(there, positions, len(x))].mT
    (states,) = convolution.causal_conv1d_varlen_states(x, ends, kept)
    assert torch.equal(states, expected)


def test_states_of_packed_sequences_go_on_as_the_sequences_do() -> None:
    """A step from such a state is the step after the whole sequence."""
    x, weight, ends, new = random(9, 4), random(4, 4), torch.tensor([0, 2, 9]), random(2, 4, seed=1)
    (states,) = convolution.causal_conv1d_varlen_states(x, ends, 4)
    y, _ = convolution.causal_conv1d_update(new, states, weight)
    for row, part in enumerate((x[:2], x[2:])):
        whole = torch.cat([part, new[row : row + 1]]).mT[None]
        close(y[row], convolution.causal_conv1d_fn(whole, weight)[0][0, :, -1])


@pytest.mark.parametrize("lengths", [(9,), (1, 8), (2, 1, 6)])
def test_initial_states_are_those_of_the_first_packed_sequence(lengths: tuple[int, ...]) -> None:
    x, weight, bias, before = random(2, 3, 9), random(3, 4), random(3), random(2, 3, 3)
    seq_idx = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths)).expand(2, 9)
    (y,) = convolution.causal_conv1d_fn(x, weight, bias, seq_idx, before, activation="silu")
    pieces = torch.split(x, list(lengths), dim=-1)
    states = [before, *[None] * (len(lengths) - 1)]
    alone = [
        papers.causal_conv1d(piece, weight, bias, "silu", state) for piece, state in zip(pieces, states, strict=True)
    ]
    close(y, torch.cat(alone, dim=-1))


def test_padding_of_a_packed_row_gives_zero() -> None:
    seq_idx = torch.tensor([[0, 0, 1, -1]])
    (y,) = convolution.causal_conv1d_fn(random(1, 2, 4), random(2, 3), random(2), seq_idx)
    assert not y[..., 3].any()
