"""The rotation of queries and keys: its reference against complex numbers and transformers' form, and its adapter."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.exact import close
from tests.support.late import Late
from tests.support.ssd_inputs import random

if TYPE_CHECKING:
    import torch
    from torch import Tensor
    from transformers.models.llama import modeling_llama as llama

    from scanproof.kernels.operations import attention as rows
    from scanproof.kernels.references import attention
else:
    torch, attention = Late("torch"), Late("scanproof.kernels.references.attention")
    rows, llama = Late("scanproof.kernels.operations.attention"), Late("transformers.models.llama.modeling_llama")

PLACES = 12


def tables(pairs: int) -> tuple[Tensor, Tensor]:
    """Cosines and sines of 12 places."""
    angles = random(PLACES, pairs, seed=7)
    return angles.cos(), angles.sin()


def rotate(x: Tensor, pairs: int, **options: Any) -> Tensor:
    cos, sin = tables(pairs)
    result: Tensor = attention.apply_rotary_emb(x, cos, sin, **options)[0]
    return result


@given(pairs=st.integers(1, 4), rest=st.integers(0, 3), length=st.integers(0, 5), interleaved=st.booleans())
@settings(max_examples=50)
def test_a_pair_is_multiplied_by_a_complex_number(pairs: int, rest: int, length: int, interleaved: bool) -> None:
    x = random(2, length, 3, 2 * pairs + rest)
    turned = rotate(x, pairs, interleaved=interleaved)
    first, second = (slice(0, 2 * pairs, 2), slice(1, 2 * pairs, 2)) if interleaved else (
        slice(0, pairs), slice(pairs, 2 * pairs),
    )  # fmt: skip
    cos, sin = tables(pairs)
    wanted = torch.complex(x[..., first], x[..., second]) * torch.complex(cos, sin)[None, :length, None]
    close(turned[..., first], wanted.real)
    close(turned[..., second], wanted.imag)
    close(turned[..., 2 * pairs :], x[..., 2 * pairs :])


def test_a_row_begins_at_its_place() -> None:
    x, places = random(2, 4, 3, 6), torch.tensor([3, 8])
    turned = rotate(x, 3, seqlen_offsets=places)
    for row, place in enumerate(places.tolist()):
        padded = torch.cat([x.new_zeros(1, place, 3, 6), x[row : row + 1]], dim=1)
        close(turned[row], rotate(padded, 3)[0, place:])


def test_packed_sequences_each_begin_at_their_place() -> None:
    x, ends = random(1, 9, 2, 4), torch.tensor([0, 4, 4, 9])
    close(rotate(x, 2, cu_seqlens=ends), torch.cat([rotate(x[:, :4], 2), rotate(x[:, 4:], 2)], dim=1))
    placed = rotate(x, 2, cu_seqlens=ends, seqlen_offsets=torch.tensor([1, 0, 6]))
    alone = [
        rotate(x[:, :4], 2, seqlen_offsets=torch.tensor([1])),
        rotate(x[:, 4:], 2, seqlen_offsets=torch.tensor([6])),
    ]
    close(placed, torch.cat(alone, dim=1))


def test_the_gradient_is_rotated_back() -> None:
    cos, sin = tables(2)
    x = random(2, 3, 2, 5).requires_grad_()
    for interleaved in (False, True):
        assert torch.autograd.gradcheck(lambda x: attention.apply_rotary_emb(x, cos, sin, interleaved)[0], (x,))  # noqa: B023
    sent = random(2, 3, 2, 5, seed=3)
    (gradient,) = torch.autograd.grad(attention.apply_rotary_emb(x, cos, sin)[0], x, sent)
    close(gradient, attention.apply_rotary_emb(sent, cos, -sin)[0])


def test_it_is_the_form_of_transformers_llama() -> None:
    q, k = random(2, 5, 3, 8), random(2, 5, 2, 8, seed=1)
    cos, sin = (torch.cat([table, table], dim=-1)[None, :5] for table in tables(4))
    for mine, theirs in zip((q, k), llama.apply_rotary_pos_emb(q, k, cos, sin, unsqueeze_dim=2), strict=True):
        close(rotate(mine, 4), theirs)


def turn(x: Tensor, cos: Tensor, sin: Tensor, **options: Any) -> Tensor:
    """As flash-attn's function: packed sequences without a batch axis, and in place where that is asked for."""
    packed = options.get("cu_seqlens") is not None
    assert options.pop("max_seqlen", None) == (5 if packed else None)
    out: Tensor = attention.apply_rotary_emb(x[None] if packed else x, cos, sin, **options)[0]
    out = out[0] if packed else out
    return x.copy_(out) if options.get("inplace") else out


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("inplace", [False, True])
def test_the_adapter_leaves_its_argument_and_returns_what_the_reference_does(packed: bool, inplace: bool) -> None:
    cos, sin = tables(2)
    arguments: dict[str, Any] = {"x": random(1, 9, 2, 4), "cos": cos, "sin": sin, "inplace": inplace}
    if packed:
        arguments["cu_seqlens"] = torch.tensor([0, 4, 9])
    before = arguments["x"].clone()
    results = rows.adapt_rotation(turn)(**arguments)
    for result, wanted in zip(results if inplace else (results,), attention.apply_rotary_emb(**arguments), strict=True):
        close(result, wanted)
    assert torch.equal(arguments["x"], before)


def test_the_adapter_shows_what_was_not_rotated_in_place() -> None:
    cos, sin = tables(2)
    x = random(1, 9, 2, 4)

    def turn_elsewhere(x: Tensor, cos: Tensor, sin: Tensor, inplace: bool) -> Tensor:
        return turn(x, cos, sin)

    _, kept = rows.adapt_rotation(turn_elsewhere)(x=x, cos=cos, sin=sin, inplace=True)
    assert torch.equal(kept, x)
