"""References of the attention operations, with the arguments of the operations (flash-attn 2.8).

Not covered, as no document's model uses them: dropout, ALiBi, soft capping, paged caches, rotary in the cache.
Letters: b batch, l queries, m keys, h heads, q heads of queries, k heads of keys and values, p headdim.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from scanproof.kernels.references.precision import Hold, exact

BLOCK_SCORES = 2**22
"""Scores that are there at once: 32 MiB in float64."""


def flash_attn_func(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    softmax_scale: float | None = None,
    causal: bool = False,
    window_size: tuple[int, int] = (-1, -1),
    *,
    hold: Hold = exact,
) -> tuple[Tensor]:
    """softmax(scale q k^T) v, where `causal` aligns the last query with the last key (arXiv 2307.08691, section 3).

    Args:
        q: (b, l, q, p).
        k, v: (b, m, k, p); head i of the queries reads head i // (q / k).
        softmax_scale: 1 / sqrt(p) when None.
        causal: query i sees the keys up to i + m - l; a query that sees none gives 0.
        window_size: keys to the left and right of i + m - l that are seen; negative: all.

    Returns:
        (b, l, q, p).
    """
    return (_attention(q, k, v, softmax_scale, causal, window_size, hold),)


def _attention(
    q: Tensor, k: Tensor, v: Tensor, scale: float | None, causal: bool, window: tuple[int, int], hold: Hold
) -> Tensor:
    """Head by head, and within a head block of queries by block: all scores of 65,536 positions are 32 GiB a head.

    Between forward and backward no scores are kept; they are computed again.
    """
    repeats = q.shape[2] // k.shape[2]
    behind, block = k.shape[1] - q.shape[1], max(1, BLOCK_SCORES // (k.shape[0] * k.shape[1]))
    seen = (window[0], 0 if causal else window[1])
    heads = []
    for head, queries in enumerate(q.unbind(2)):
        keys, values = k[:, :, head // repeats], v[:, :, head // repeats]
        places = range(behind, behind + q.shape[1], block)
        blocks = [
            checkpoint(
                _block, q_b, keys, values, place, scale, seen, hold, use_reentrant=False, preserve_rng_state=False
            )
            for q_b, place in zip(torch.split(queries, block, dim=1), places, strict=True)
        ]
        heads.append(torch.cat(blocks, dim=1))
    return torch.stack(heads, dim=2)


def _block(
    q: Tensor, k: Tensor, v: Tensor, place: int, scale: float | None, seen: tuple[int, int], hold: Hold
) -> Tensor:
    """One head of (b, l, p) queries, the first at position `place` of the keys, to all keys that any of them sees.

    seen: keys to the left and to the right of a query's own position; negative: all.
    """
    left, right = seen
    end = k.shape[1] if right < 0 else min(k.shape[1], max(1, place + q.shape[1] + right))
    k, v = k[:, :end], v[:, :end]
    scores = (q @ k.mT) * (q.shape[-1] ** -0.5 if scale is None else scale)
    distance = torch.arange(end, device=q.device) - torch.arange(place, place + q.shape[1], device=q.device)[:, None]
    hidden = torch.zeros_like(distance, dtype=torch.bool)
    if right >= 0:
        hidden |= distance > right
    if left >= 0:
        hidden |= distance < -left
    # A row that sees nothing is made finite before the softmax, so that its gradient is 0 and not NaN.
    blind = hidden.all(dim=-1, keepdim=True)
    weights = torch.softmax(scores.masked_fill(hidden & ~blind, float("-inf")), dim=-1)
    return hold(weights.masked_fill(blind, 0.0)) @ v


def flash_attn_varlen_func(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cu_seqlens_q: Tensor,
    cu_seqlens_k: Tensor,
    max_seqlen_q: int,
    max_seqlen_k: int,
    softmax_scale: float | None = None,
    causal: bool = False,
    window_size: tuple[int, int] = (-1, -1),
    *,
    hold: Hold = exact,
) -> tuple[Tensor]:
    """Attention within each of the sequences that stand one after another.

    Args:
        q: (l, q, p), all queries.
        k, v: (m, k, p), all keys.
        cu_seqlens_q, cu_seqlens_k: where the sequences begin and end, int32.
        max_seqlen_q, max_seqlen_k: unused here; they size the operation's grid.

    Returns:
        (l, q, p).
    """
    parts = [
        torch.split(part, torch.diff(ends).tolist())
        for part, ends in ((q, cu_seqlens_q), (k, cu_seqlens_k), (v, cu_seqlens_k))
    ]
    outputs = [
        _attention(q_s[None], k_s[None], v_s[None], softmax_scale, causal, window_size, hold)[0]
        for q_s, k_s, v_s in zip(*parts, strict=True)
    ]
    return (torch.cat(outputs),)


def flash_attn_with_kvcache(
    q: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    k: Tensor | None = None,
    v: Tensor | None = None,
    cache_seqlens: Tensor | None = None,
    cache_batch_idx: Tensor | None = None,
    softmax_scale: float | None = None,
    causal: bool = False,
    window_size: tuple[int, int] = (-1, -1),
    *,
    hold: Hold = exact,
) -> tuple[Tensor, Tensor, Tensor]:
    """Attention of new queries to a cache that first takes in the new keys and values.

    Args:
        q: (b, l, q, p).
        k_cache, v_cache: (N, m, k, p), N = b unless there are indices.
        k, v: (b, new, k, p), or None where the cache holds them already.
        cache_seqlens: (b,), how many positions of the cache are filled; all when None.
        cache_batch_idx: (b,), the row of the cache that belongs to each q.

    Returns:
        y (b, l, q, p), and the two caches with the new keys and values in them.
    """
    k_cache, v_cache = k_cache.clone(), v_cache.clone()
    outputs = []
    for i in range(len(q)):
        row = i if cache_batch_idx is None else int(cache_batch_idx[i])
        filled = k_cache.shape[1] if cache_seqlens is None else int(cache_seqlens[i])
        if k is not None and v is not None:
            k_cache[row, filled : filled + k.shape[1]] = k[i]
            v_cache[row, filled : filled + k.shape[1]] = v[i]
            filled += k.shape[1]
        keys, values = k_cache[row : row + 1, :filled], v_cache[row : row + 1, :filled]
        outputs.append(_attention(q[i : i + 1], keys, values, softmax_scale, causal, window_size, hold))
    return torch.cat(outputs), k_cache, v_cache
