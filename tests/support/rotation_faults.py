"""Faults of attention over a cache that rotates new keys and queries: each is a call, made wrong."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from tests.support.late import Late

if TYPE_CHECKING:
    import torch

    from scanproof.kernels.references import attention
else:
    torch, attention = Late("torch"), Late("scanproof.kernels.references.attention")

Call = Callable[..., Any]


def rotated_with_the_other_pairs(call: Call, given: dict[str, Any]) -> Any:
    """Neighbouring channels are taken for a pair where those apart are, and the other way round."""
    return call(**{**given, "rotary_interleaved": not given["rotary_interleaved"]})


def rotated_one_position_late(call: Call, given: dict[str, Any]) -> Any:
    """The angles are those of the next position."""
    names = ("rotary_cos", "rotary_sin")
    return call(**{**given, **{name: given[name].roll(-1, 0) for name in names}})


def rotated_backwards(call: Call, given: dict[str, Any]) -> Any:
    """The angles have the other sign."""
    return call(**{**given, "rotary_sin": -given["rotary_sin"]})


def queries_not_rotated(call: Call, given: dict[str, Any]) -> Any:
    """New keys are rotated, queries are not."""
    copies = {name: given[name].clone() for name in ("k_cache", "v_cache")}
    call(**given)
    with_new = given["cache_seqlens"] + given["k"].shape[1]
    left_out = dict.fromkeys(("k", "v", "rotary_cos", "rotary_sin"))
    y = call(**{**given, **left_out, "cache_seqlens": with_new})
    assert not torch.equal(copies["k_cache"], given["k_cache"])
    return y


def cache_of_unrotated_keys(call: Call, given: dict[str, Any]) -> Any:
    """The cache takes the new keys as they come."""
    y = call(**given)
    for row, start in enumerate(given["cache_seqlens"].tolist()):
        cached = row if given.get("cache_batch_idx") is None else int(given["cache_batch_idx"][row])
        given["k_cache"][cached, start : start + given["k"].shape[1]] = given["k"][row]
    return y


def queries_rotated_in_order(call: Call, given: dict[str, Any]) -> Any:
    """Without a mask each query is rotated by a position of its own, as with one."""
    call(**given)
    filled, length = given["cache_seqlens"], given["q"].shape[1]
    parts = zip(given["q"], [slice(start, start + length) for start in filled.tolist()], strict=True)
    cos, sin, interleaved = (given[name] for name in ("rotary_cos", "rotary_sin", "rotary_interleaved"))
    q = torch.stack([attention.rotate(row, cos[places], sin[places], interleaved) for row, places in parts])
    left_out = dict.fromkeys(("k", "v", "rotary_cos", "rotary_sin"))
    return call(**{**given, **left_out, "q": q, "cache_seqlens": filled + length})
