"""The references of attention are what PyTorch's scaled_dot_product_attention computes: groups, windows, alignment."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.late import Late

if TYPE_CHECKING:
    import torch
    import torch.nn.functional as F
    from torch import Tensor
    from torch.nn.attention import bias

    from scanproof.kernels.references import attention
    from tests.support import oracles
    from tests.support.oracles import Pair
else:
    torch, F, bias = Late("torch"), Late("torch.nn.functional"), Late("torch.nn.attention.bias")
    attention, oracles = Late("scanproof.kernels.references.attention"), Late("tests.support.oracles")


def sdpa(q: Tensor, k: Tensor, v: Tensor, mask: Any = None, scale: float | None = None) -> Tensor:
    """PyTorch's attention on (b, l, heads, p)."""
    q, k, v = (part.transpose(1, 2) for part in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scale, enable_gqa=True).transpose(1, 2)


def bottom_right(queries: int, keys: int) -> Any:
    """PyTorch's own mask: the last query is aligned with the last key."""
    return bias.causal_lower_right(queries, keys)


def window(queries: int, keys: int, left: int, right: int) -> Tensor:
    """Which keys a query sees, as flash-attn's documentation puts it: i + m - l - left to i + m - l + right."""
    seen = torch.zeros(queries, keys, dtype=torch.bool)
    for i in range(queries):
        aligned = i + keys - queries
        seen[i, max(0, aligned - left) : aligned + right + 1] = True
    return seen


def whole(queries: int, keys: int, mask: Any, **options: Any) -> Pair:
    """b 2, p 4, four heads of queries to two of keys."""
    draw = oracles.draw
    arguments = {
        "q": draw(2, queries, 4, 4), "k": draw(2, keys, 2, 4), "v": draw(2, keys, 2, 4, seed=1), **options,
    }  # fmt: skip

    def form(q: Tensor, k: Tensor, v: Tensor, softmax_scale: float | None = None, **rest: Any) -> Tensor:
        return sdpa(q, k, v, mask, softmax_scale)

    return oracles.Pair(attention.flash_attn_func, form, arguments)


def varlen() -> Pair:
    """Three sequences of 2, 1 and 4 queries and 3, 5 and 4 keys."""
    queries, keys = [2, 1, 4], [3, 5, 4]
    arguments = {
        "q": oracles.draw(7, 4, 4), "k": oracles.draw(12, 2, 4), "v": oracles.draw(12, 2, 4, seed=1),
        "cu_seqlens_q": torch.tensor([0, 2, 3, 7], dtype=torch.int32),
        "cu_seqlens_k": torch.tensor([0, 3, 8, 12], dtype=torch.int32),
        "max_seqlen_q": 4, "max_seqlen_k": 5, "causal": True,
    }  # fmt: skip

    def form(q: Tensor, k: Tensor, v: Tensor, **rest: Any) -> Tensor:
        parts = (torch.split(q[None], queries, 1), torch.split(k[None], keys, 1), torch.split(v[None], keys, 1))
        sequences = zip(*parts, queries, keys, strict=True)
        return torch.cat([sdpa(q, k, v, bottom_right(lq, lk))[0] for q, k, v, lq, lk in sequences])

    return oracles.Pair(attention.flash_attn_varlen_func, form, arguments)


def cached() -> Pair:
    """Two new positions, written at 1 and 3 of rows 2 and 0 of a cache of three rows and six positions."""
    filled, rows = [1, 3], [2, 0]
    arguments = {
        "q": oracles.draw(2, 2, 4, 4), "k_cache": oracles.draw(3, 6, 2, 4), "v_cache": oracles.draw(3, 6, 2, 4, seed=1),
        "k": oracles.draw(2, 2, 2, 4), "v": oracles.draw(2, 2, 2, 4, seed=1),
        "cache_seqlens": torch.tensor(filled, dtype=torch.int32),
        "cache_batch_idx": torch.tensor(rows, dtype=torch.int32), "causal": True,
    }  # fmt: skip

    def form(q: Tensor, k_cache: Tensor, v_cache: Tensor, k: Tensor, v: Tensor, **rest: Any) -> tuple[Tensor, ...]:
        outputs, keys, values = [], list(k_cache.unbind()), list(v_cache.unbind())
        for i, (start, row) in enumerate(zip(filled, rows, strict=True)):
            keys[row] = torch.cat([keys[row][:start], k[i], keys[row][start + 2 :]])
            values[row] = torch.cat([values[row][:start], v[i], values[row][start + 2 :]])
            seen = (keys[row][None, : start + 2], values[row][None, : start + 2])
            outputs.append(sdpa(q[i : i + 1], *seen, bottom_right(2, start + 2)))
        return torch.cat(outputs), torch.stack(keys), torch.stack(values)

    return oracles.Pair(attention.flash_attn_with_kvcache, form, arguments, differentiable=False)


PAIRS: dict[str, Callable[[], Pair]] = {
    "all keys": lambda: whole(5, 7, None),
    "another scale": lambda: whole(5, 7, None, softmax_scale=0.3),
    "causal": lambda: whole(6, 6, bottom_right(6, 6), causal=True),
    "causal, more keys": lambda: whole(4, 9, bottom_right(4, 9), causal=True),
    "window": lambda: whole(7, 7, window(7, 7, 2, 1), window_size=(2, 1)),
    "window, more keys": lambda: whole(4, 9, window(4, 9, 3, 2), window_size=(3, 2)),
    "window, causal": lambda: whole(4, 9, window(4, 9, 3, 0), window_size=(3, 0), causal=True),
    "varlen": varlen,
    "cache": cached,
}


@pytest.mark.parametrize("name", PAIRS)
def test_the_reference_is_what_pytorch_computes(name: str, record_property: Callable[[str, object], None]) -> None:
    pair = PAIRS[name]()
    differences = oracles.find_differences(pair)
    record_property("largest difference", max(differences.values()))
    assert {what: size for what, size in differences.items() if size > oracles.EQUAL} == {}
    assert oracles.find_unseen(pair) == []
