"""The references of Mamba-3 agree with each other and with the duality."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.exact import close
from tests.support.late import Late
from tests.support.ssd_inputs import random

if TYPE_CHECKING:
    import torch
    import torch.nn.functional as F
    from torch import Tensor

    from scanproof.kernels.references import mamba3
else:
    torch, F = Late("torch"), Late("torch.nn.functional")
    mamba3 = Late("scanproof.kernels.references.mamba3")

STATES = ("Input_Angle_State", "Input_SSM_State", "Input_K_State", "Input_V_State")


def mamba3_arguments(length: int, groups: int, starts: int = 2) -> dict[str, Any]:
    """Heads 4, p 3, n 6, two angles; `starts` states."""
    steps = {"ADT": -random(2, 4, length).exp(), "DT": random(2, 4, length, seed=1).exp()}
    biases = {"Q_bias": random(4, 6), "K_bias": random(4, 6, seed=1)}
    shapes = ((4, 2), (4, 3, 6), (4, 6), (4, 3))
    states = {name: random(starts, *shape) for name, shape in zip(STATES, shapes, strict=True)}
    return {
        "Q": random(2, length, groups, 6), "K": random(2, length, groups, 6, seed=1), "V": random(2, length, 4, 3),
        "Trap": random(2, 4, length, seed=2), "Angles": random(2, length, 4, 2), "D": random(4),
        "Z": random(2, length, 4, 3, seed=1), **steps, **biases, **states,
    }  # fmt: skip


def mamba3_one_by_one(arguments: dict[str, Any], row: int, first: int, end: int, start: int) -> tuple[Tensor, ...]:
    """y of the positions [first, end) of a row by the recurrence, from the states numbered `start`, and the states."""
    states = {name: arguments[name][start : start + 1] for name in STATES}
    outputs = [torch.zeros(1, 0, 4, 3, dtype=torch.float64)]
    for t in range(first, end):
        here = {name: arguments[name][row : row + 1, t] for name in ("Q", "K", "V", "Angles", "Z")}
        here |= {name: arguments[name][row : row + 1, :, t] for name in ("ADT", "DT", "Trap")}
        constant = {name: arguments[name] for name in ("Q_bias", "K_bias", "D")}
        y, *after = mamba3.mamba3_siso_step(**here, **constant, **states)
        states = dict(zip(STATES, after, strict=True))
        outputs.append(y[:, None])
    return torch.cat(outputs, dim=1), *states.values()


@given(length=st.integers(1, 20), groups=st.sampled_from([1, 2, 4]), chunk=st.integers(1, 24))
@settings(max_examples=20)
def test_mamba_3_in_chunks_is_its_recurrence(length: int, groups: int, chunk: int) -> None:
    arguments = mamba3_arguments(length, groups)
    got = mamba3.mamba3_siso_combined(**arguments, chunk_size=chunk, return_final_states=True)
    rows = [mamba3_one_by_one(arguments, row, 0, length, row) for row in range(2)]
    for value, parts in zip(got, zip(*rows, strict=True), strict=True):
        close(value, torch.cat(parts))


@given(lengths=st.lists(st.integers(0, 6), min_size=1, max_size=5))
@settings(max_examples=20)
def test_packed_sequences_of_mamba_3_are_those_alone_and_empty_ones_keep_their_states(lengths: list[int]) -> None:
    total, ends = sum(lengths), torch.tensor([0, *lengths]).cumsum(0)
    arguments = mamba3_arguments(total, 2, starts=len(lengths))
    first_row = {
        name: value[:1] if name not in ("D", "Q_bias", "K_bias", *STATES) else value
        for name, value in arguments.items()
    }
    got = mamba3.mamba3_siso_combined(**first_row, chunk_size=4, return_final_states=True, cu_seqlens=ends)
    spans = [(int(ends[i]), int(ends[i + 1]), i) for i in range(len(lengths))]
    alone = [mamba3_one_by_one(arguments, 0, first, end, number) for first, end, number in spans]
    y, *states = zip(*alone, strict=True)
    close(got[0], torch.cat(y, dim=1))
    for value, parts in zip(got[1:], states, strict=True):
        close(value, torch.cat(parts))


def test_mamba_3_without_rotation_and_with_eulers_rule_is_the_duality() -> None:
    """With lambda 1 and angles 0 a position's input enters once, as Mamba-2's does."""
    a = mamba3_arguments(9, 2)
    plain = {name: value for name, value in a.items() if name not in (*STATES, "Q_bias", "K_bias")}
    zeros = torch.zeros(4, 6, dtype=torch.float64)
    still = {"Trap": torch.full_like(a["Trap"], 60.0), "Angles": torch.zeros_like(a["Angles"])}
    (y,) = mamba3.mamba3_siso_combined(**{**plain, **still}, Q_bias=zeros, K_bias=zeros, chunk_size=4)
    dt = a["DT"].mT
    for head in range(4):
        # A of a head is constant in Mamba-2: here A dt is given, so that steps and decays go in as they are.
        state = torch.zeros(2, 3, 6, dtype=torch.float64)
        for t in range(9):
            inflow = dt[:, t, head, None, None] * a["V"][:, t, head, :, None] * a["K"][:, t, head // 2, None]
            state = torch.exp(a["ADT"][:, head, t])[:, None, None] * state + inflow
            read = (state * a["Q"][:, t, head // 2, None]).sum(-1) + a["D"][head] * a["V"][:, t, head]
            close(y[:, t, head], read * F.silu(a["Z"][:, t, head]))
