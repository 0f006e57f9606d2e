"""The references of attention: heads, masks and windows, in blocks of queries, and what they keep."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from unittest import mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.exact import close
from tests.support.late import Late
from tests.support.ssd_inputs import random

if TYPE_CHECKING:
    import torch
    import torch.nn.functional as F
    from torch import Tensor

    from scanproof.kernels.references import attention
else:
    torch, F, attention = Late("torch"), Late("torch.nn.functional"), Late("scanproof.kernels.references.attention")


@pytest.mark.parametrize(("queries", "keys"), [(4, 4), (1, 5), (5, 2)])
def test_causal_attention_is_aligned_to_the_bottom_right(queries: int, keys: int) -> None:
    q, k, v = random(1, queries, 2, 4), random(1, keys, 2, 4), random(1, keys, 2, 4, seed=1)
    (y,) = attention.flash_attn_func(q, k, v, causal=True)
    for i in range(queries):
        seen = max(0, keys - queries + i + 1)
        one, keys_seen, values_seen = (part.transpose(1, 2) for part in (q[:, i : i + 1], k[:, :seen], v[:, :seen]))
        expected = F.scaled_dot_product_attention(one, keys_seen, values_seen).transpose(1, 2)
        expected = expected if seen else torch.zeros_like(expected)
        close(y[:, i : i + 1], expected)


def test_heads_of_queries_read_the_key_head_of_their_group() -> None:
    q, k, v = random(1, 3, 4, 2), random(1, 3, 2, 2), random(1, 3, 2, 2, seed=1)
    (y,) = attention.flash_attn_func(q, k, v)
    for head in range(4):
        own = slice(head // 2, head // 2 + 1)
        (alone,) = attention.flash_attn_func(q[:, :, head : head + 1], k[:, :, own], v[:, :, own])
        close(y[:, :, head : head + 1], alone)


def test_a_window_hides_what_is_further_left() -> None:
    q, k, v = random(1, 6, 1, 2), random(1, 6, 1, 2), random(1, 6, 1, 2, seed=1)
    (y,) = attention.flash_attn_func(q, k, v, causal=True, window_size=(2, 0))
    (last,) = attention.flash_attn_func(q[:, 5:], k[:, 3:], v[:, 3:])
    close(y[:, 5:], last)


@given(
    block=st.integers(1, 60), queries=st.integers(1, 9), keys=st.integers(1, 9), causal=st.booleans(),
    window=st.tuples(st.integers(-1, 4), st.integers(-1, 4)),
)  # fmt: skip
@settings(max_examples=100)
def test_attention_in_blocks_of_queries_is_that_of_all_scores(
    block: int, queries: int, keys: int, causal: bool, window: tuple[int, int]
) -> None:
    """Values and gradients equal PyTorch's, which uses all scores and a mask, for any number of blocks."""
    q, k, v = random(2, queries, 4, 3), random(2, keys, 2, 3, seed=1), random(2, keys, 2, 3, seed=2)
    leaves = [part.requires_grad_() for part in (q, k, v)]
    first, second, third = (part.transpose(1, 2) for part in leaves)
    place = torch.arange(queries)[:, None] + keys - queries
    left, right = (window[0] if window[0] >= 0 else keys + queries), window[1] if window[1] >= 0 else keys + queries
    seen = (torch.arange(keys) >= place - left) & (torch.arange(keys) <= place + (0 if causal else right))
    blind = ~seen.any(dim=-1)
    mask = seen | blind[:, None]
    whole = F.scaled_dot_product_attention(first, second, third, attn_mask=mask, enable_gqa=True).transpose(1, 2)
    whole = whole.masked_fill(blind[:, None, None], 0.0)
    with mock.patch("scanproof.kernels.references.attention.BLOCK_SCORES", block):
        (y,) = attention.flash_attn_func(q, k, v, causal=causal, window_size=window)
        close(y, whole)
        sent = random(2, queries, 4, 3, seed=3)
        for mine, theirs in zip(*(torch.autograd.grad(each, leaves, sent) for each in (y, whole)), strict=True):
            close(mine, theirs)


@pytest.mark.parametrize("interleaved", [True, False])
@pytest.mark.parametrize("options", [{"causal": True}, {"window_size": (3, 0)}, {}], ids=["causal", "window", "full"])
def test_the_cache_takes_keys_that_are_rotated_and_its_queries_are(interleaved: bool, options: dict[str, Any]) -> None:
    """By complex numbers, before the call, and the call without a rotation: 4 of 6 channels, from positions 1 and 5."""
    q, k, v = random(2, 3, 4, 6), random(2, 3, 2, 6, seed=1), random(2, 3, 2, 6, seed=2)
    keys, values, filled = random(2, 9, 2, 6, seed=3), random(2, 9, 2, 6, seed=4), torch.tensor([1, 5])
    angles = torch.outer(torch.arange(9.0, dtype=torch.float64), torch.tensor([1.0, 0.1], dtype=torch.float64))
    order = [0, 1, 2, 3, 4, 5] if interleaved else [0, 2, 1, 3, 4, 5]

    def turned(x: Tensor, places: Tensor) -> Tensor:
        beside = x[..., order]
        numbers = torch.view_as_complex(torch.unflatten(beside[..., :4].contiguous(), -1, (2, 2)))
        whole = numbers * torch.polar(torch.ones_like(angles), angles)[places][:, :, None]
        return torch.cat([torch.view_as_real(whole).flatten(-2), beside[..., 4:]], dim=-1)[..., order]

    places = filled[:, None] + torch.arange(3)
    given = {"k_cache": keys, "v_cache": values, "v": v, "cache_seqlens": filled, **options}
    got = attention.flash_attn_with_kvcache(
        q, k=k, rotary_cos=angles.cos(), rotary_sin=angles.sin(), rotary_interleaved=interleaved, **given
    )
    of_queries = places if options else filled[:, None].expand(2, 3)
    expected = attention.flash_attn_with_kvcache(turned(q, of_queries), k=turned(k, places), **given)
    for ours, theirs in zip(got, expected, strict=True):
        close(ours, theirs)


def test_rotated_attention_depends_on_distances_alone() -> None:
    """A sequence that begins later in the cache has the same output, if what is before it is hidden."""
    q, k, v = random(1, 3, 2, 4), random(1, 3, 2, 4, seed=1), random(1, 3, 2, 4, seed=2)
    angles = torch.outer(torch.arange(9.0, dtype=torch.float64), torch.tensor([1.0, 0.1], dtype=torch.float64))
    keys, values = random(1, 9, 2, 4, seed=3), random(1, 9, 2, 4, seed=4)
    first, later = (
        attention.flash_attn_with_kvcache(
            q, keys, values, k, v, angles.cos(), angles.sin(), torch.tensor([start]), window_size=(0, 0)
        )[0]
        for start in (0, 5)
    )
    close(first, later)


def test_attention_keeps_nothing_but_its_inputs_for_the_backward_pass() -> None:
    """All scores of 65,536 positions would take 32 GiB per head."""
    kept: list[int] = []

    def keep(value: Tensor) -> Tensor:
        kept.append(value.untyped_storage().data_ptr())
        return value

    q, k, v = (random(1, 40, 1, 2, seed=seed).requires_grad_() for seed in range(3))
    with (
        mock.patch("scanproof.kernels.references.attention.BLOCK_SCORES", 80),
        torch.autograd.graph.saved_tensors_hooks(keep, lambda value: value),
    ):
        attention.flash_attn_func(q, k, v)
    assert set(kept) == {part.untyped_storage().data_ptr() for part in (q, k, v)}
