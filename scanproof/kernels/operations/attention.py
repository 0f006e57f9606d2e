"""Attention, of packed sequences and over a cache, and the rotation of its queries and keys."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from scanproof.kernels import costs
from scanproof.kernels.inputs import ArgumentSpec, OutputSpec
from scanproof.kernels.operation import CUDA_ONLY, HALVES, Op, integer_argument, optional_argument
from scanproof.kernels.references import attention

ATTENTION = Op(
    name="flash_attn_func",
    package="flash-attn",
    module="flash_attn",
    reference=attention.flash_attn_func,
    arguments=(ArgumentSpec("q", "b l q p"), ArgumentSpec("k", "b m k p"), ArgumentSpec("v", "b m k p")),
    outputs=(OutputSpec("out", "b l q p"),),
    flop=costs.attention,
    backward_flop=costs.attention_backward,
    dtypes=HALVES,
    matmul=True,
    interpreter=CUDA_ONLY,
    atomic=("grad of q", "grad of k", "grad of v"),
)

ATTENTION_VARLEN = Op(
    name="flash_attn_varlen_func",
    package="flash-attn",
    module="flash_attn",
    reference=attention.flash_attn_varlen_func,
    arguments=(
        ArgumentSpec("q", "l q p"),
        ArgumentSpec("k", "l k p"),
        ArgumentSpec("v", "l k p"),
        integer_argument("cu_seqlens_q", "S+1", "cu_seqlens", optional=False),
        integer_argument("cu_seqlens_k", "S+1", "key_cu_seqlens", optional=False),
        integer_argument("max_seqlen_q", "1", "longest", optional=False),
        integer_argument("max_seqlen_k", "1", "longest_key", optional=False),
    ),
    outputs=(OutputSpec("out", "l q p"),),
    flop=costs.attention,
    backward_flop=costs.attention_backward,
    derived=lambda s: {"S+1": s["S"] + 1},
    dtypes=HALVES,
    matmul=True,
    interpreter=CUDA_ONLY,
    atomic=("grad of q", "grad of k", "grad of v"),
)

ATTENTION_CACHE = Op(
    name="flash_attn_with_kvcache",
    package="flash-attn",
    module="flash_attn",
    reference=attention.flash_attn_with_kvcache,
    arguments=(
        ArgumentSpec("q", "b l q p"),
        ArgumentSpec("k_cache", "N m k p"),
        ArgumentSpec("v_cache", "N m k p"),
        optional_argument("k", "b l k p"),
        optional_argument("v", "b l k p"),
        ArgumentSpec("rotary_cos", "m r/2", "cosines", optional=True, differentiable=False, moved="b l r/2"),
        ArgumentSpec("rotary_sin", "m r/2", "sines", optional=True, differentiable=False, moved="b l r/2"),
        integer_argument("cache_seqlens", "b", "filled"),
        integer_argument("cache_batch_idx", "b", "rows"),
    ),
    outputs=(
        OutputSpec("out", "b l q p"),
        OutputSpec("k_cache", "N m k p", moved="b l k p"),
        OutputSpec("v_cache", "N m k p", moved="b l k p"),
    ),
    derived=lambda s: {"r/2": s.get("r", 0) // 2},
    flop=costs.attention,
    changes=("k_cache", "v_cache"),
    dtypes=HALVES,
    matmul=True,
    interpreter=CUDA_ONLY,
)


def adapt_rotation(function: Callable[..., Any]) -> Callable[..., Any]:
    """From flash-attn's rotation to the reference's: packed sequences are one row, and what is in place is returned.

    The call gets a copy to rotate in place, so that the argument stays as it is, and the length of the longest of
    packed sequences, by which flash-attn sizes its grid.
    """

    def rotate(**arguments: Any) -> Any:
        x: Tensor = arguments.pop("x")
        ends, in_place = arguments.get("cu_seqlens"), arguments.get("inplace", False)
        given = x.clone() if in_place else x
        if ends is None:
            out = function(given, **arguments)
        else:
            out = function(given[0], **arguments, max_seqlen=int(torch.diff(ends).max()))[None]
        return (out, given.detach()) if in_place else out

    return rotate


ROTATION = Op(
    name="apply_rotary_emb",
    package="flash-attn",
    module="flash_attn.layers.rotary",
    reference=attention.apply_rotary_emb,
    arguments=(
        ArgumentSpec("x", "b l q p"),
        ArgumentSpec("cos", "m r/2", "cosines", differentiable=False, moved="b l r/2"),
        ArgumentSpec("sin", "m r/2", "sines", differentiable=False, moved="b l r/2"),
        integer_argument("seqlen_offsets", "b", "filled"),
        integer_argument("cu_seqlens", "S+1", "cu_seqlens"),
    ),
    outputs=(
        OutputSpec("out", "b l q p"),
        OutputSpec("x", "b l q p", option="inplace", differentiable=False, moved="0"),
    ),
    adapt=adapt_rotation,
    derived=lambda s: {"r/2": s["r"] // 2, "S+1": s["S"] + 1},
    flop=costs.rotation,
    backward_flop=costs.rotation,
    interpreter="flash-attn is not imported without its CUDA extension",
)

ATTENTIONS = (ATTENTION, ATTENTION_VARLEN, ATTENTION_CACHE, ROTATION)
