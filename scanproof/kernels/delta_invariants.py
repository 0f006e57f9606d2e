"""Invariants of the gated delta rule: its two forms agree, and a state may be handed on after any position."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from scanproof.kernels.invariants import Calls, Inputs, Pair

CHUNKS, STEPS = "chunk_gated_delta_rule", "fused_recurrent_gated_delta_rule"
DELTA_TIME = {"q": 1, "k": 1, "v": 1, "g": 1, "beta": 1}
BATCHED = (*DELTA_TIME, "initial_state")
BLOCK = 16
"""fla solves a chunk of 64 in blocks of so many positions."""
PREFILLED = 2 * BLOCK + 1
DRAFT = 5


def cut(inputs: Inputs, start: int, end: int, state: Tensor | None = None) -> dict[str, Any]:
    """The arguments of the positions [start, end), from a state if there is one; the state after them is asked for."""
    parts = {name: inputs[name][:, start:end] for name in DELTA_TIME}
    options = {} if state is None else {"initial_state": state}
    return {**inputs, **parts, **options, "output_final_state": True}


def delta_steps(calls: Calls, inputs: Inputs) -> list[Pair]:
    """The rule in chunks equals the recurrence over the whole sequence, and its decode steps after a prefill."""
    chunks, steps, length = calls(CHUNKS), calls(STEPS), inputs["v"].shape[1]
    y, last = chunks(**cut(inputs, 0, length))
    whole, whole_last = steps(**cut(inputs, 0, length))
    first, state = chunks(**cut(inputs, 0, length // 2))
    outputs = [first]
    for t in range(length // 2, length):
        out, state = steps(**cut(inputs, t, t + 1, state))
        outputs.append(out)
    return [
        ("chunks and recurrence: o", y, whole),
        ("chunks and recurrence: state", last, whole_last),
        ("prefill and steps: o", y, torch.cat(outputs, dim=1)),
        ("prefill and steps: state", last, state),
    ]


def delta_split(calls: Calls, inputs: Inputs) -> list[Pair]:
    """A sequence in two parts, with the state carried over, equals the whole, cut beside every border of a block."""
    rule, length = calls(CHUNKS), inputs["v"].shape[1]
    y, last = rule(**cut(inputs, 0, length))
    pairs = []
    for at in [at for at in range(1, length) if at % BLOCK in (0, 1, BLOCK - 1)]:
        first, state = rule(**cut(inputs, 0, at))
        second, end = rule(**cut(inputs, at, length, state))
        pairs += [(f"cut at {at}: o", y, torch.cat([first, second], dim=1)), (f"cut at {at}: state", last, end)]
    return pairs


def delta_packed(name: str) -> Callable[[Calls, Inputs], list[Pair]]:
    """Make the invariant: sequences packed into one row, with their states, are those of each sequence alone."""

    def pairs(calls: Calls, inputs: Inputs) -> list[Pair]:
        rule = calls(name)
        o, states = rule(**inputs)
        alone = {key: value for key, value in inputs.items() if key != "cu_seqlens"}
        outputs, last = [], []
        for number, (start, end) in enumerate(itertools.pairwise(inputs["cu_seqlens"].tolist())):
            y, state = rule(**cut(alone, start, end, inputs["initial_state"][number : number + 1]))
            outputs.append(y)
            last.append(state)
        return [
            ("packed and separate: o", o, torch.cat(outputs, dim=1)),
            ("packed and separate: states", states, torch.cat(last)),
        ]

    return pairs


def delta_rollback(calls: Calls, inputs: Inputs) -> list[Pair]:
    """A draft after a prefill, in either form, equals decode steps, and so does any part of it that is accepted."""
    chunks, steps = calls(CHUNKS), calls(STEPS)
    _, prefilled = chunks(**cut(inputs, 0, PREFILLED))
    draft = cut(inputs, PREFILLED, PREFILLED + DRAFT, prefilled)
    in_chunks, after_chunks = chunks(**draft)
    at_once, after = steps(**draft)
    pairs, single, state = [], [], prefilled
    for k, t in enumerate(range(PREFILLED, PREFILLED + DRAFT), start=1):
        out, state = steps(**cut(inputs, t, t + 1, state))
        single.append(out)
        accepted = steps(**cut(inputs, PREFILLED, PREFILLED + k, prefilled))[1] if k < DRAFT else after
        pairs.append((f"accepted {k} of {DRAFT}: state", state, accepted))
    one_by_one = torch.cat(single, dim=1)
    return [
        ("drafted and one by one: o", one_by_one, at_once),
        ("drafted in chunks and one by one: o", one_by_one, in_chunks),
        ("drafted in chunks and one by one: state", state, after_chunks),
        *pairs,
    ]
