"""References of the attention operations; they take the arguments of flash-attn 2.8.

Not covered, because no published model uses them: dropout, ALiBi, soft capping, paged caches.
Letters: b batch, l queries, m keys, h heads, q heads of queries, k heads of keys and values, p headdim, r channels of a
head that are rotated.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from scanproof.kernels.references.precision import Hold, exact

BLOCK_SCORES = 2**22
"""Largest number of scores in memory at a time: 32 MiB in float64."""


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
        softmax_scale: 1 / sqrt(p) if None.
        causal: query i sees the keys up to i + m - l; a query that sees no key gives 0.
        window_size: how many keys to the left and right of i + m - l a query sees; negative: all.
        hold: rounds the attention weights, see `scanproof.kernels.references.precision`.

    Returns:
        (b, l, q, p).
    """
    return (_attention(q, k, v, softmax_scale, causal, window_size, hold),)


def _attention(
    q: Tensor, k: Tensor, v: Tensor, scale: float | None, causal: bool, window: tuple[int, int], hold: Hold
) -> Tensor:
    """Attention, one head and one block of queries at a time.

    All scores of 65,536 positions would take 32 GiB per head.  The scores are not kept for the backward pass but
    computed again.
    """
    if q.shape[1] == 0:
        return q
    repeats = q.shape[2] // k.shape[2]
    behind, block = k.shape[1] - q.shape[1], max(1, BLOCK_SCORES // max(1, k.shape[0] * k.shape[1]))
    seen = (window[0], 0 if causal else window[1])
    heads = []
    for head, queries in enumerate(q.unbind(2)):
        keys, values = k[:, :, head // repeats], v[:, :, head // repeats]
        positions = range(behind, behind + q.shape[1], block)
        blocks = [
            checkpoint(
                _block, q_b, keys, values, position, scale, seen, hold, use_reentrant=False, preserve_rng_state=False
            )
            for q_b, position in zip(torch.split(queries, block, dim=1), positions, strict=True)
        ]
        heads.append(torch.cat(blocks, dim=1))
    return torch.stack(heads, dim=2)


def _block(
    q: Tensor, k: Tensor, v: Tensor, position: int, scale: float | None, seen: tuple[int, int], hold: Hold
) -> Tensor:
    """Attention of one head and one block of queries to all keys that any of these queries sees.

    Args:
        q: (b, l, p), the block of queries.
        k, v: (b, m, p), all keys and values of the head.
        position: the key position that the first query is aligned with.
        seen: how many keys to the left and right of its position a query sees; negative: all.

    Returns:
        (b, l, p).
    """
    left, right = seen
    end = k.shape[1] if right < 0 else min(k.shape[1], max(1, position + q.shape[1] + right))
    k, v = k[:, :end], v[:, :end]
    scores = (q @ k.mT) * (q.shape[-1] ** -0.5 if scale is None else scale)
    distance = (
        torch.arange(end, device=q.device) - torch.arange(position, position + q.shape[1], device=q.device)[:, None]
    )
    hidden = torch.zeros_like(distance, dtype=torch.bool)
    if right >= 0:
        hidden |= distance > right
    if left >= 0:
        hidden |= distance < -left
    # For a query that sees no key the scores stay finite in the softmax, so that its gradient is 0 and not NaN.
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
    """Attention within each of several sequences that follow one another without padding.

    Args:
        q: (l, q, p), the queries of all sequences.
        k, v: (m, k, p), the keys and values of all sequences.
        cu_seqlens_q, cu_seqlens_k: where the sequences begin and end, int32.  A sequence may be empty; queries without
            a key give 0.
        max_seqlen_q, max_seqlen_k: unused here; the operation needs them to size its grid.
        softmax_scale, causal, window_size, hold: as in `flash_attn_func`.

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
    rotary_cos: Tensor | None = None,
    rotary_sin: Tensor | None = None,
    cache_seqlens: Tensor | None = None,
    cache_batch_idx: Tensor | None = None,
    softmax_scale: float | None = None,
    causal: bool = False,
    window_size: tuple[int, int] = (-1, -1),
    rotary_interleaved: bool = True,
    *,
    hold: Hold = exact,
) -> tuple[Tensor, Tensor, Tensor]:
    """Attention of new queries to a cache; new keys and values are written into the cache first.

    Args:
        q: (b, l, q, p).
        k_cache, v_cache: (N, m, k, p); N = b unless `cache_batch_idx` is given.
        k, v: (b, new, k, p); None: the cache already contains them.
        rotary_cos, rotary_sin: (at least m, r / 2), of the angles by position; only where k and v are given.  New keys
            and queries are rotated by their positions, which begin at `cache_seqlens`; without `causal` and a window
            every query is at the first of them.
        rotary_interleaved: as in `rotate`.
        cache_seqlens: (b,), how many positions of the cache are filled; all if None.
        cache_batch_idx: (b,), the row of the cache that belongs to each row of q.
        softmax_scale, causal, window_size, hold: as in `flash_attn_func`.

    Returns:
        The output (b, l, q, p), and the two caches with the new keys, rotated, and values.
    """
    k_cache, v_cache = k_cache.clone(), v_cache.clone()
    in_order = causal or window_size != (-1, -1)
    outputs = []
    for i in range(len(q)):
        row = i if cache_batch_idx is None else int(cache_batch_idx[i])
        filled = k_cache.shape[1] if cache_seqlens is None else int(cache_seqlens[i])
        queries = q[i]
        if k is not None and v is not None:
            new_keys = k[i]
            if rotary_cos is not None and rotary_sin is not None:
                places = slice(filled, filled + k.shape[1])
                new_keys = hold(rotate(new_keys, rotary_cos[places], rotary_sin[places], rotary_interleaved))
                places = slice(filled, filled + (q.shape[1] if in_order else 1))
                queries = hold(rotate(queries, rotary_cos[places], rotary_sin[places], rotary_interleaved))
            k_cache[row, filled : filled + k.shape[1]] = new_keys
            v_cache[row, filled : filled + k.shape[1]] = v[i]
            filled += k.shape[1]
        keys, values = k_cache[row : row + 1, :filled], v_cache[row : row + 1, :filled]
        outputs.append(_attention(queries[None], keys, values, softmax_scale, causal, window_size, hold))
    return torch.cat(outputs), k_cache, v_cache


def apply_rotary_emb(
    x: Tensor,
    cos: Tensor,
    sin: Tensor,
    interleaved: bool = False,
    inplace: bool = False,
    seqlen_offsets: Tensor | None = None,
    cu_seqlens: Tensor | None = None,
    *,
    hold: Hold = exact,
) -> tuple[Tensor, ...]:
    """Rotate every position of every sequence by the angle of its place (arXiv 2104.09864, section 3.2.2).

    Args:
        x: (b, l, q, p).
        cos, sin: (at least the largest place + 1, r / 2), of the angles by place.
        interleaved: as in `rotate`.
        inplace: whether the rotated values stand in x afterwards; they are then a second result.
        seqlen_offsets: (b,), or one for each packed sequence: the place of its first position; 0 if None.
        cu_seqlens: where the sequences packed into the one row of x begin and end.
        hold: unused, nothing is rounded on the way.

    Returns:
        (b, l, q, p), once more where `inplace`.
    """
    rows = x.unbind() if cu_seqlens is None else torch.split(x[0], torch.diff(cu_seqlens).tolist())
    places = [0] * len(rows) if seqlen_offsets is None else seqlen_offsets.tolist()
    turned = [
        rotate(row, cos[places[i] : places[i] + len(row)], sin[places[i] : places[i] + len(row)], interleaved)
        for i, row in enumerate(rows)
    ]
    out = torch.cat(turned).reshape(x.shape) if turned else x.clone()
    return (out, out.detach()) if inplace else (out,)


def rotate(x: Tensor, cos: Tensor, sin: Tensor, interleaved: bool) -> Tensor:
    """Rotary position embedding (arXiv 2104.09864): pairs of channels are turned by the angle of their position.

    Args:
        x: (l, h, p); the first r channels are rotated, the others stay.
        cos, sin: (l, r / 2), or (1, r / 2), of the angle of each position and pair.
        interleaved: whether channels 2 i and 2 i + 1 are a pair; else i and i + r / 2.

    Returns:
        (l, h, p).
    """
    pairs = cos.shape[-1]
    turned, rest = x[..., : 2 * pairs], x[..., 2 * pairs :]
    parts = torch.unflatten(turned, -1, (pairs, 2)) if interleaved else torch.unflatten(turned, -1, (2, pairs)).mT
    first, second = parts.unbind(-1)
    cos, sin = cos[:, None], sin[:, None]
    parts = torch.stack([first * cos - second * sin, first * sin + second * cos], dim=-1)
    turned = (parts if interleaved else parts.mT).flatten(-2)
    return torch.cat([turned, rest], dim=-1)
