"""Invariants of Mamba-3: its scan, its steps, and the four states that one call hands to the next.

An angle is the same after a whole turn: of the other call it is the one that is nearest.  A half rounds it by a share
of itself, up to 0.016 where it is almost a turn, which is more than halves allow of a cosine.
"""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from scanproof.kernels.invariants import Calls, Inputs, Pair

SCAN, STEP = "mamba3_siso_combined", "mamba3_siso_step"
TIME = {"Q": 1, "K": 1, "V": 1, "ADT": 2, "DT": 2, "Trap": 2, "Angles": 1, "Z": 1}
"""Argument of the scan -> its time axis."""
STATES = ("Input_Angle_State", "Input_SSM_State", "Input_K_State", "Input_V_State")
DRAFT = 5

States = tuple[Tensor, ...]


def cut(inputs: Inputs, start: int, end: int) -> dict[str, Any]:
    """The scan's arguments for the positions [start, end)."""
    return {key: value.narrow(TIME[key], start, end - start) if key in TIME else value for key, value in inputs.items()}


def scan_part(calls: Calls, inputs: Inputs, start: int, end: int, states: States) -> tuple[Tensor, States]:
    """The scan of some positions from given states: y, and the states after them."""
    given = {**cut(inputs, start, end), **dict(zip(STATES, states, strict=True)), "return_final_states": True}
    y, *after = calls(SCAN)(**given)
    return y, tuple(after)


def make_step(calls: Calls, inputs: Inputs, position: int, states: States) -> tuple[Tensor, States]:
    """The step of one position of the scan's arguments: y without a time axis, and the states after it."""
    here = {key: inputs[key].select(axis, position) for key, axis in TIME.items() if key in inputs}
    rest = {key: inputs[key] for key in ("Q_bias", "K_bias", "D") if key in inputs}
    y, *after = calls(STEP)(**here, **rest, **dict(zip(STATES, states, strict=True)))
    return y, tuple(after)


def pair_states(what: str, first: States, second: States) -> list[Pair]:
    """What is compared of the states after a call; v is that of an input, bit for bit."""
    angle, other = first[0].double(), second[0].double()
    nearest = angle + torch.remainder(other - angle + math.pi, 2 * math.pi) - math.pi
    names, pairs = ("angle", "SSM state", "k", "v"), zip((angle, *first[1:]), (nearest, *second[1:]), strict=True)
    return [(f"{what}: {name}", one, two) for name, (one, two) in zip(names, pairs, strict=True)]


def given_states(inputs: Inputs) -> States:
    return tuple(inputs[name] for name in STATES)


def steps(calls: Calls, inputs: Inputs) -> list[Pair]:
    """The scan over a sequence equals its decode steps, from given states."""
    y, *last = calls(SCAN)(**inputs)
    states, single = given_states(inputs), []
    for position in range(inputs["V"].shape[1]):
        out, states = make_step(calls, inputs, position, states)
        single.append(out)
    return [("prefill and steps", y, torch.stack(single, dim=1)), *pair_states("last", tuple(last), states)]


def split(calls: Calls, inputs: Inputs) -> list[Pair]:
    """A sequence in two parts, with the states carried over, equals the whole, at every offset of a chunk."""
    y, *last = calls(SCAN)(**inputs)
    length, pairs = inputs["V"].shape[1], []
    for at in (*range(1, inputs["chunk_size"] + 2), length - 1):
        first, states = scan_part(calls, inputs, 0, at, given_states(inputs))
        second, after = scan_part(calls, inputs, at, length, states)
        pairs.append((f"cut at {at}: y", y, torch.cat([first, second], dim=1)))
        pairs += pair_states(f"cut at {at}", tuple(last), after)
    return pairs


def chunk_size(calls: Calls, inputs: Inputs) -> list[Pair]:
    """The result does not depend on the number of positions per chunk."""
    y, *last = calls(SCAN)(**inputs)
    pairs = []
    for chunk in (32, 64):
        other, *after = calls(SCAN)(**{**inputs, "chunk_size": chunk})
        pairs += [(f"chunk {chunk}: y", y, other), *pair_states(f"chunk {chunk}", tuple(last), tuple(after))]
    return pairs


def packed(calls: Calls, inputs: Inputs) -> list[Pair]:
    """Sequences packed into one row give the same results and states as each sequence alone."""
    y, *last = calls(SCAN)(**inputs)
    alone = {key: value for key, value in inputs.items() if key != "cu_seqlens"}
    parts, ends = [], []
    for number, (start, end) in enumerate(itertools.pairwise(inputs["cu_seqlens"].tolist())):
        states = tuple(state[number : number + 1] for state in given_states(inputs))
        out, after = scan_part(calls, alone, start, end, states)
        parts.append(out)
        ends.append(after)
    together = tuple(torch.cat(state) for state in zip(*ends, strict=True))
    pairs: list[Pair] = [("packed and separate", y, torch.cat(parts, dim=1))]
    return pairs + pair_states("packed and separate", tuple(last), together)


def rollback(calls: Calls, inputs: Inputs) -> list[Pair]:
    """A draft after a prefill equals decode steps, and so does any part of it that is accepted."""
    start = inputs["chunk_size"] + 1
    _, prefilled = scan_part(calls, inputs, 0, start, given_states(inputs))
    drafted, after = scan_part(calls, inputs, start, start + DRAFT, prefilled)
    # A step sums up angles in float32.
    states, single, pairs = (prefilled[0].to(prefilled[1].dtype), *prefilled[1:]), [], []
    for count in range(1, DRAFT + 1):
        y, states = make_step(calls, inputs, start + count - 1, states)
        single.append(y)
        accepted = after if count == DRAFT else scan_part(calls, inputs, start, start + count, prefilled)[1]
        pairs += pair_states(f"accepted {count} of {DRAFT}", states, accepted)
    return [("drafted and one by one", torch.stack(single, dim=1), drafted), *pairs]
