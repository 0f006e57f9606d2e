"""A model that reads a sequence in pieces, with its state carried over, computes the same as for the whole sequence."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.late import Late
from tests.support.tiny_models import ATTENTION, CONFIGS, MAMBA2, ids, tiny

if TYPE_CHECKING:
    import torch

    from scanproof.models import attention
    from scanproof.models.against_float64 import decoding
else:
    torch = Late("torch")
    attention, decoding = Late("scanproof.models.attention"), Late("scanproof.models.against_float64.decoding")

OTHERS: dict[str, dict[str, Any]] = {
    "wide convolution": {"name": "mamba1", "ssm_cfg": {"d_state": 4, "d_conv": 6, "conv_bias": False}},
    "convolution of one": {"name": "mamba1", "ssm_cfg": {"d_state": 4, "d_conv": 1}},
    "groups, a skip per channel, MLP inside": {
        "name": "mamba2",
        "ssm_cfg": {**MAMBA2, "ngroups": 2, "D_has_hdim": True, "d_ssm": 32, "norm_before_gate": True},
    },
    "grouped keys": {
        "name": "transformer",
        "attn_cfg": {**ATTENTION, "num_heads_kv": 2, "mlp_dim": 20, "rotary_emb_interleaved": True},
    },
    "attention without convolution or positions": {
        "name": "transformer",
        "attn_cfg": {**ATTENTION, "d_conv": 0, "rotary_emb_dim": 0, "softmax_scale": 0.2},
    },
    "unfused norms": {"name": "mamba2attn", "fused_add_norm": False, "residual_in_fp32": False},
}
FAMILIES: dict[str, dict[str, Any]] = {name: {"name": name} for name in CONFIGS} | OTHERS
CLOSE = {"float64": 1e-10, "float32": 2e-5, "bfloat16": 6e-2}


def assert_pieces_make_the_whole(model: Any, tokens: torch.Tensor, lengths: list[int], dtype: str = "float64") -> None:
    with torch.no_grad():
        whole = model(tokens).logits
        pieces, _ = decoding.run_in_pieces(model, tokens, lengths)
    torch.testing.assert_close(pieces, whole, rtol=CLOSE[dtype], atol=CLOSE[dtype])


@pytest.mark.parametrize("family", FAMILIES)
@settings(max_examples=15)
@given(data=st.data())
def test_any_split_computes_the_whole(family: str, data: st.DataObject) -> None:
    rows, length = data.draw(st.integers(1, 3)), data.draw(st.integers(1, 27))
    cuts = sorted(data.draw(st.sets(st.integers(1, length - 1)))) if length > 1 else []
    lengths = [end - start for start, end in pairwise([0, *cuts, length])]
    assert_pieces_make_the_whole(tiny(dtype="float64", **FAMILIES[family]), ids(length, rows), lengths)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("dtype", CLOSE)
def test_steps_compute_the_whole(family: str, dtype: str) -> None:
    assert_pieces_make_the_whole(tiny(dtype=dtype, **FAMILIES[family]), ids(19), [1] * 19, dtype)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("lengths", [[1, 18], [2, 17], [3, 16], [4, 15], [7, 12], [8, 11], [9, 1, 1, 8], [18, 1]])
def test_splits_inside_a_convolution_window_or_a_chunk(family: str, lengths: list[int]) -> None:
    assert_pieces_make_the_whole(tiny(dtype="float64", **FAMILIES[family]), ids(19), lengths)


@pytest.mark.parametrize("family", FAMILIES)
def test_one_prefix_has_many_continuations(family: str) -> None:
    """A prefix runs once; its state is repeated, joined with another row's, and used again later."""
    model, prefixes = tiny(dtype="float64", **FAMILIES[family]), ids(11, 2)
    chosen, continuations = [1, 0, 1, 1], ids(5, 4)
    with torch.no_grad():
        _, state = decoding.run_in_pieces(model, prefixes, [11])
        branches = model(continuations, state.rows(chosen)).logits
        again = model(continuations, state.rows(torch.tensor(chosen))).logits
        whole = model(torch.cat([prefixes[chosen], continuations], dim=1)).logits[:, 11:]
    assert torch.equal(branches, again), "a forward pass changed the state that it was given"
    torch.testing.assert_close(branches, whole, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("family", CONFIGS)
def test_scoring_keeps_no_state(family: str) -> None:
    assert tiny(family)(ids()).state is None


@pytest.mark.parametrize("family", ["mamba1", "mamba2"])
def test_the_state_does_not_grow_nor_hold_what_it_was_made_from(family: str) -> None:
    model = tiny(family)
    with torch.no_grad():
        sizes = [
            [
                part.untyped_storage().nbytes()
                for layer in model(ids(length), model.initial_state(3)).state.layers
                for part in (layer.conv, layer.ssm)
            ]
            for length in (1, 40)
        ]
    assert sizes[0] == sizes[1]


def test_scan_states_stay_wide() -> None:
    layer: Any = tiny("mamba2", "bfloat16").initial_state(2).layers[0]
    assert (layer.conv.dtype, layer.ssm.dtype) == (torch.bfloat16, torch.float32)


def test_a_state_of_another_batch_is_refused() -> None:
    model = tiny("mamba1")
    with pytest.raises(ValueError, match="the state has 2 rows, input_ids has 3"):
        model(ids(), model.initial_state(2))


def test_attention_that_sees_later_positions_has_no_state() -> None:
    model = tiny("transformer", attn_cfg={**ATTENTION, "causal": False})
    with pytest.raises(ValueError, match="causal is false"):
        model.initial_state(1)
