"""The references of the gated delta rule agree with the paper's matrices, with each other and in parts."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.exact import close
from tests.support.late import Late
from tests.support.ssd_inputs import random

if TYPE_CHECKING:
    import torch
    import torch.nn.functional as F
    from torch import Tensor

    from scanproof.kernels.references import gated_delta
else:
    torch, F = Late("torch"), Late("torch.nn.functional")
    gated_delta = Late("scanproof.kernels.references.gated_delta")

CHUNK = 8
LENGTHS = (1, 2, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK, 3 * CHUNK + 5)


def delta_arguments(length: int, batch: int = 2, decay: float = 1.0) -> dict[str, Any]:
    """g 2 heads of queries and keys, h 4 of values, n 5, p 3; `decay` 0: none."""
    return {
        "q": random(batch, length, 2, 5),
        "k": F.normalize(random(batch, length, 2, 5, seed=1), dim=-1),
        "v": random(batch, length, 4, 3, seed=2),
        "g": -decay * random(batch, length, 4, seed=3).exp(),
        "beta": torch.sigmoid(random(batch, length, 4, seed=4)),
        "initial_state": random(batch, 4, 5, 3, seed=5),
        "output_final_state": True,
    }


def by_the_paper(a: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """Equation 10 of arXiv 2412.06464, with its matrices: S of values by keys."""
    o, states = torch.zeros_like(a["v"]), torch.zeros_like(a["initial_state"])
    for row in range(len(o)):
        for head in range(o.shape[2]):
            S = a["initial_state"][row, head].T
            for t in range(o.shape[1]):
                q, k = (a[name][row, t, head // 2] for name in "qk")
                v, alpha, beta = a["v"][row, t, head], a["g"][row, t, head].exp(), a["beta"][row, t, head]
                S = S @ (alpha * (torch.eye(5, dtype=S.dtype) - beta * torch.outer(k, k))) + beta * torch.outer(v, k)
                o[row, t, head] = S @ q / 5**0.5
            states[row, head] = S.T
    return o, states


@pytest.mark.parametrize("length", LENGTHS)
def test_both_forms_are_the_recurrence_of_the_paper(length: int) -> None:
    arguments = delta_arguments(length)
    expected = by_the_paper(arguments)
    for results in (
        gated_delta.fused_recurrent_gated_delta_rule(**arguments),
        gated_delta.chunk_gated_delta_rule(**arguments, chunk_size=CHUNK),
    ):
        for result, value in zip(results, expected, strict=True):
            close(result, value)


@pytest.mark.parametrize("decay", [0.0, 1e-6, 30.0])
@pytest.mark.parametrize("chunk", [1, 3, 16, 64])
def test_no_chunk_size_and_no_decay_sets_the_forms_apart(decay: float, chunk: int) -> None:
    arguments = delta_arguments(40, decay=decay)
    recurrent = gated_delta.fused_recurrent_gated_delta_rule(**arguments)
    for result, value in zip(gated_delta.chunk_gated_delta_rule(**arguments, chunk_size=chunk), recurrent, strict=True):
        assert result.isfinite().all()
        close(result, value)


@pytest.mark.parametrize("name", ["chunk_gated_delta_rule", "fused_recurrent_gated_delta_rule"])
def test_what_is_made_inside_is_what_may_be_made_before(name: str) -> None:
    call, arguments = getattr(gated_delta, name), delta_arguments(11)
    A_log, dt_bias, raw, step = random(4), random(4, seed=1), random(2, 11, 4, seed=6), random(2, 11, 4, seed=7)
    inside = call(
        **{**arguments, "g": step, "beta": raw}, A_log=A_log, dt_bias=dt_bias, use_gate_in_kernel=True,
        use_beta_sigmoid_in_kernel=True, allow_neg_eigval=True, use_qk_l2norm_in_kernel=True,
    )  # fmt: skip
    q, k = (arguments[part] / (arguments[part].square().sum(-1, keepdim=True) + 1e-6).sqrt() for part in "qk")
    g = -A_log.exp() * F.softplus(step + dt_bias)
    before = call(**{**arguments, "q": q, "k": k, "g": g, "beta": 2 * torch.sigmoid(raw)})
    for result, value in zip(inside, before, strict=True):
        close(result, value)
    with pytest.raises(ValueError, match="A_log"):
        call(**arguments, use_gate_in_kernel=True)


@pytest.mark.parametrize("name", ["chunk_gated_delta_rule", "fused_recurrent_gated_delta_rule"])
def test_states_may_have_their_axes_swapped_and_outputs_another_scale(name: str) -> None:
    call, arguments = getattr(gated_delta, name), delta_arguments(11)
    o, last = call(**arguments)
    swapped, last_swapped = call(
        **{**arguments, "initial_state": arguments["initial_state"].mT}, state_v_first=True, scale=2.0
    )
    close(swapped, o * 2 * 5**0.5)
    close(last_swapped.mT, last)


@pytest.mark.parametrize("name", ["chunk_gated_delta_rule", "fused_recurrent_gated_delta_rule"])
def test_packed_sequences_are_those_of_the_sequences_alone_and_an_empty_one_keeps_its_state(name: str) -> None:
    call, arguments = getattr(gated_delta, name), delta_arguments(20, batch=1)
    ends, state = [0, 0, 3, 3, 20, 20], random(5, 4, 5, 3, seed=8)
    o, last = call(**{**arguments, "initial_state": state}, cu_seqlens=torch.tensor(ends))
    time = ("q", "k", "v", "g", "beta")
    for number, (start, end) in enumerate(itertools.pairwise(ends)):
        alone = {key: value[:, start:end] if key in time else value for key, value in arguments.items()}
        one, one_last = call(**{**alone, "initial_state": state[number : number + 1]})
        close(o[:, start:end], one)
        close(last[number], one_last[0])
        assert start < end or torch.equal(last[number], state[number])


@pytest.mark.parametrize("name", ["chunk_gated_delta_rule", "fused_recurrent_gated_delta_rule"])
def test_without_a_position_or_a_row_there_is_only_the_state(name: str) -> None:
    call, arguments = getattr(gated_delta, name), delta_arguments(0)
    o, last = call(**arguments)
    assert (o.shape, last is arguments["initial_state"]) == ((2, 0, 4, 3), True)
    o, last = call(**delta_arguments(3, batch=0))
    assert (o.shape, last.shape) == ((0, 3, 4, 3), (0, 4, 5, 3))
    assert len(call(**{**arguments, "output_final_state": False})) == 1
