"""Invariants of the rotation of queries and keys: every position is turned by its own place alone."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from scanproof.kernels.invariants import Calls, Inputs, Pair

ROTATION = "apply_rotary_emb"
ROTATED_TIME = {"x": 1}


def rotation_steps(calls: Calls, inputs: Inputs) -> list[Pair]:
    """A sequence rotated at once equals its positions, each rotated at its place, as decoding does."""
    rotate, starts = calls(ROTATION), inputs["seqlen_offsets"]
    (whole,) = rotate(**inputs)
    steps = [
        rotate(**{**inputs, "x": inputs["x"][:, t : t + 1], "seqlen_offsets": starts + t})[0]
        for t in range(inputs["x"].shape[1])
    ]
    return [("prefill and steps", whole, torch.cat(steps, dim=1))]


def rotation_packed(calls: Calls, inputs: Inputs) -> list[Pair]:
    """Sequences packed into one row are rotated as each sequence alone."""
    rotate, starts = calls(ROTATION), inputs["seqlen_offsets"]
    (whole,) = rotate(**inputs)
    alone = {name: value for name, value in inputs.items() if name != "cu_seqlens"}
    parts = [
        rotate(**{**alone, "x": inputs["x"][:, start:end], "seqlen_offsets": starts[number : number + 1]})[0]
        for number, (start, end) in enumerate(itertools.pairwise(inputs["cu_seqlens"].tolist()))
    ]
    return [("packed and separate", whole, torch.cat(parts, dim=1))]
