"""Faults of attention and of the rotation of its queries and keys, as they were reported."""

from __future__ import annotations

import itertools
import math
from typing import Any

import torch
from torch import Tensor

from scanproof.faults.changes import output_of, with_output
from scanproof.faults.convolutions import gradient_as_if_contiguous
from scanproof.faults.fault import Arguments, Call, Fault
from scanproof.faults.scans import MAMBA

FLASH = "https://github.com/Dao-AILab/flash-attention"
FULL, VARLEN, CACHE = "flash_attn_func", "flash_attn_varlen_func", "flash_attn_with_kvcache"
ROTATION = "apply_rotary_emb"


def top_left(call: Call, arguments: Arguments) -> Any:
    """The first query is aligned with the first key: query i sees the keys up to i."""
    queries, keys = arguments["q"].shape[1], arguments["k"].shape[1]
    if not arguments.get("causal") or queries >= keys:
        return call(**arguments)
    return call(**{**arguments, "k": arguments["k"][:, :queries], "v": arguments["v"][:, :queries]})


def rows_taken_for_packed(call: Call, arguments: Arguments) -> Any:
    """Grouped heads: query i gets the causal limit of query i // r, where r is the number of heads per key head."""
    q, k, v = (arguments[name] for name in ("q", "k", "v"))
    ratio, ahead = q.shape[2] // k.shape[2], k.shape[1] - q.shape[1]
    if not arguments.get("causal") or ratio == 1 or ahead < 0:
        return call(**arguments)
    rows = []
    for row in range(q.shape[1]):
        seen = row // ratio + ahead + 1
        rows.append(call(**{**arguments, "q": q[:, row : row + 1], "k": k[:, :seen], "v": v[:, :seen]}))
    return torch.cat(rows, dim=1)


def varlen_rows_taken_for_packed(call: Call, arguments: Arguments) -> Any:
    """The same fault for packed sequences."""
    q, k, v = (arguments[name] for name in ("q", "k", "v"))
    ratio = q.shape[1] // k.shape[1]
    if not arguments.get("causal") or ratio == 1:
        return call(**arguments)
    rows = []
    for start, end in itertools.pairwise(arguments["cu_seqlens_q"].tolist()):
        for row in range(start, end):
            seen = (row - start) // ratio + 1
            one = {
                "q": q[row : row + 1], "cu_seqlens_q": _ends(arguments, 1), "max_seqlen_q": 1,
                "k": k[start : start + seen], "v": v[start : start + seen],
                "cu_seqlens_k": _ends(arguments, seen), "max_seqlen_k": seen,
            }  # fmt: skip
            rows.append(call(**{**arguments, **one}))
    return torch.cat(rows)


def _ends(arguments: Arguments, length: int) -> Tensor:
    """Bounds (cu_seqlens) of a single sequence."""
    given: Tensor = arguments["cu_seqlens_q"]
    return torch.tensor([0, length], dtype=given.dtype, device=given.device)


def ends_one_late(call: Call, arguments: Arguments) -> Any:
    """Every sequence but the last also contains the first key of the next one, which its last query then sees."""
    ends = arguments["cu_seqlens_k"].clone()
    ends[1:-1] += 1
    return call(**{**arguments, "cu_seqlens_k": ends, "max_seqlen_k": arguments["max_seqlen_k"] + 1})


def only_first_key(call: Call, arguments: Arguments) -> Any:
    """A single query is aligned with the first key of the cache, and sees only that key."""
    y = call(**arguments)
    if arguments["q"].shape[1] != 1 or not arguments.get("causal"):
        return y
    values = arguments["v_cache"]
    rows = arguments.get("cache_batch_idx")
    first = (values if rows is None else values[rows.long()])[:, :1]
    return first.repeat_interleave(y.shape[2] // first.shape[2], dim=2).to(y.dtype)


def history_ignored(call: Call, arguments: Arguments) -> Any:
    """Several new queries see each other, but nothing in the cache."""
    y = call(**arguments)
    if arguments.get("k") is None or arguments["q"].shape[1] == 1:
        return y
    empty = {name: torch.zeros_like(arguments[name]) for name in ("k_cache", "v_cache")}
    return call(**{**arguments, **empty, "cache_seqlens": torch.zeros_like(arguments["cache_seqlens"])})


def not_written(call: Call, arguments: Arguments) -> Any:
    """The new keys and values are used, but not written to the cache."""
    copies = {name: arguments[name].clone() for name in ("k_cache", "v_cache")}
    return with_output(call(**{**arguments, **copies}), output_of)


def rotated_with_the_other_pairs(call: Call, arguments: Arguments) -> Any:
    """Channels next to each other and channels half of those rotated apart are taken for each other."""
    return call(**{**arguments, "rotary_interleaved": not arguments.get("rotary_interleaved", True)})


def rotated_past_the_width(call: Call, arguments: Arguments) -> Any:
    """As many channels as the next power of two are rotated, those too many by the angles of the next place.

    A table of cosines is read past the end of a row, where the next row begins.
    """
    pairs = arguments["cos"].shape[-1]
    missing = min(2 ** math.ceil(math.log2(pairs)), arguments["x"].shape[-1] // 2) - pairs
    wider = {
        name: torch.cat([arguments[name], arguments[name].roll(-1, 0)[:, :missing]], -1) for name in ("cos", "sin")
    }
    return call(**{**arguments, **wider})


def rotated_at_the_first_place(call: Call, arguments: Arguments) -> Any:
    """Every row, or packed sequence, begins at the place of the first one."""
    places = arguments.get("seqlen_offsets")
    if places is None or not len(places):
        return call(**arguments)
    return call(**{**arguments, "seqlen_offsets": places[:1].expand_as(places)})


def rotated_across_sequences(call: Call, arguments: Arguments) -> Any:
    """The places of packed sequences go on from one into the next."""
    ends = arguments.get("cu_seqlens")
    if ends is None:
        return call(**arguments)
    starts = ends[:-1] if arguments.get("seqlen_offsets") is None else arguments["seqlen_offsets"] + ends[:-1]
    room = arguments["cos"].shape[0] - torch.diff(ends)
    return call(**{**arguments, "seqlen_offsets": torch.minimum(starts, room).to(ends.dtype)})


def neighbours_rotated(call: Call, arguments: Arguments) -> Any:
    """Channels next to each other and channels half of those rotated apart are taken for each other."""
    return call(**{**arguments, "interleaved": not arguments.get("interleaved", False)})


FAULTS = (
    Fault(
        "attention_top_left", FULL, "The causal mask is aligned with the first key instead of the last.",
        top_left, (f"{FLASH}#21-change-behavior-of-causal-flag",),
    ),
    Fault(
        "attention_rows_packed", FULL, "With grouped heads a row's causal limit is divided by the heads per key head.",
        rows_taken_for_packed, (f"{FLASH}/pull/2528",),
    ),
    Fault(
        "attention_gradient_strides", FULL, "The backward pass reads a strided output gradient as if contiguous.",
        gradient_as_if_contiguous, (f"{FLASH}/issues/355",),
    ),
    Fault(
        "varlen_rows_packed", VARLEN, "With grouped heads a row's causal limit is divided by the heads per key head.",
        varlen_rows_taken_for_packed, (f"{FLASH}/pull/2528",),
    ),
    Fault("varlen_ends_late", VARLEN, "The bounds of the keys are off by one.", ends_one_late),
    Fault(
        "cache_first_key_only", CACHE, "In decoding, the only query sees the first key alone.",
        only_first_key, (f"{FLASH}#21-change-behavior-of-causal-flag",),
        "read in code and reproduced; no report of it was found, the link explains the two alignments",
    ),
    Fault(
        "cache_history_ignored", CACHE, "A call over several positions ignores the cache.",
        history_ignored, (f"{MAMBA}/issues/641",),
    ),
    Fault(
        "cache_rotary_pairs", CACHE, "Rotation takes neighbouring channels for a pair where those apart are.",
        rotated_with_the_other_pairs,
    ),
    Fault(
        "rotation_past_the_width", ROTATION, "Channels up to the next power of two are rotated.",
        rotated_past_the_width, ("https://github.com/sgl-project/sglang/issues/35096",),
        "reported of another Triton kernel of the same operation",
    ),
    Fault("rotation_pairs", ROTATION, "The two ways to pair channels are taken for each other.", neighbours_rotated),
    Fault("rotation_first_place", ROTATION, "Every row begins at the first row's place.", rotated_at_the_first_place),
    Fault("rotation_across", ROTATION, "The places of packed sequences go on into the next.", rotated_across_sequences),
    Fault("cache_not_written", CACHE, "New keys and values are not written to the cache.", not_written),
)  # fmt: skip
