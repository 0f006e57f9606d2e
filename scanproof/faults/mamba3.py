"""Faults of Mamba-3's scan and of its decode step: what reports say of it, and what is new in it, term by term."""

from __future__ import annotations

import itertools
import math
from typing import Any

import torch
from torch import Tensor

from scanproof.faults.changes import as_if_contiguous, cut_time, with_argument, with_arguments, with_gradient
from scanproof.faults.fault import Arguments, Call, Fault, Spoil
from scanproof.faults.scans import MAMBA, SGLANG, VLLM

SCAN, STEP = "mamba3_siso_combined", "mamba3_siso_step"
TIME = {"Q": -3, "K": -3, "V": -3, "ADT": -1, "DT": -1, "Trap": -1, "Angles": -3, "Z": -3}
STATES = ("Input_Angle_State", "Input_SSM_State", "Input_K_State", "Input_V_State")
CHUNK_SIZE = 64
"""The operation's default."""
EULER = 60.0
"""A Trap whose sigmoid is 1."""


def turns(arguments: Arguments) -> Tensor:
    """By how much the angles grow at each position: (b, l, h, a)."""
    steps = arguments["DT"].detach().transpose(1, 2)[..., None]
    return torch.as_tensor(math.pi * torch.tanh(arguments["Angles"].detach().float()) * steps)


def angles_across_sequences(call: Call, arguments: Arguments) -> Any:
    """The angles of a packed sequence begin with those that the sequences before it ended with."""
    ends = arguments.get("cu_seqlens")
    if ends is None:
        return call(**arguments)
    grown = torch.cat([torch.zeros_like(turns(arguments)[:, :1]), turns(arguments).cumsum(1)], dim=1)
    before = grown[0].index_select(0, ends[:-1].long())
    given = arguments.get("Input_Angle_State")
    states = {} if given is not None else zero_states(arguments, len(ends) - 1)
    return call(**{**arguments, **states, "Input_Angle_State": before if given is None else before + given})


def zero_states(arguments: Arguments, count: int) -> Arguments:
    """States of `count` sequences that begin with none."""
    value, heads = arguments["V"].detach(), arguments["V"].shape[2]
    n, p = arguments["Q"].shape[-1], value.shape[-1]
    shapes = ((heads, arguments["Angles"].shape[-1]), (heads, p, n), (heads, n), (heads, p))
    made = {name: value.new_zeros(count, *shape) for name, shape in zip(STATES, shapes, strict=True)}
    return {name: state if name == "Input_V_State" else state.float() for name, state in made.items()}


def angles_from_each_chunk(call: Call, arguments: Arguments) -> Any:
    """The angles of each chunk begin with zero: what they were after the chunk before is not added."""
    chunk, length = arguments.get("chunk_size", CHUNK_SIZE), arguments["V"].shape[1]
    if arguments.get("cu_seqlens") is not None or length <= chunk or not len(arguments["V"]):
        return call(**arguments)
    first = call(**{**cut_time(arguments, TIME, 0, chunk), "return_final_states": True})
    outputs, states = [first[0]], first[1:]
    for start in range(chunk, length, chunk):
        given = dict(zip(STATES, (torch.zeros_like(states[0]).float(), *states[1:]), strict=True))
        part = cut_time({**arguments, "return_final_states": True}, TIME, start, min(start + chunk, length))
        y, *states = call(**{**part, **given})
        outputs.append(y)
    y = torch.cat(outputs, dim=1)
    return (y, *states) if arguments.get("return_final_states") else y


def heads_in_turns(call: Call, arguments: Arguments) -> Any:
    """Head i reads group i mod g of Q and K instead of i // (h / g)."""
    heads, axis = arguments["V"].shape[-2], -2
    which = torch.arange(heads, device=arguments["V"].device) % arguments["Q"].shape[axis]
    return call(**{**arguments, **{name: arguments[name].index_select(axis, which) for name in ("Q", "K")}})


def rotated_in_halves(call: Call, arguments: Arguments) -> Any:
    """Channel i is rotated with channel i + n / 2, as with several inputs, and not with its neighbour."""
    half = arguments["Q"].shape[-1] // 2
    order = torch.stack([torch.arange(half), torch.arange(half) + half], -1).flatten().to(arguments["Q"].device)
    changed = {name: arguments[name].index_select(-1, order) for name in ("Q", "K", "Q_bias", "K_bias")}
    return call(**{**arguments, **changed})


def step_lags(name: str) -> Spoil:
    """Make the fault: an argument of each position is that of the position before it."""
    return with_argument(name, lambda value: torch.cat([value[..., :1], value[..., :-1]], dim=-1))


def weighs_fully(value: Tensor) -> Tensor:
    return torch.full_like(value, EULER)


def state_of_earlier(number: int) -> Spoil:
    """Make the fault: one of the four final states is that after the position before the last."""

    def spoil(call: Call, arguments: Arguments) -> Any:
        result, length = call(**arguments), arguments["V"].shape[1]
        if not arguments.get("return_final_states") or arguments.get("cu_seqlens") is not None or length < 2:
            return result
        earlier = call(**cut_time(arguments, TIME, 0, length - 1))
        return (*result[:number], earlier[number], *result[number + 1 :])

    return spoil


def next_sequence_steps(call: Call, arguments: Arguments) -> Any:
    """Each packed sequence but the last takes the weights of the next one's first position for its own first."""
    ends = arguments.get("cu_seqlens")
    if ends is None or arguments.get("Input_K_State") is None:
        return call(**arguments)
    trap = arguments["Trap"].clone()
    starts = [start for start, end in itertools.pairwise(ends.tolist()) if end > start]
    for here, after in itertools.pairwise(starts):
        trap[..., here] = arguments["Trap"][..., after]
    return call(**{**arguments, "Trap": trap})


def early_angles_without_gradient(call: Call, arguments: Arguments) -> Any:
    """The gradient of angles stops at a chunk: what later chunks send back is lost, half a sequence stands for it."""

    def later(gradient: Tensor) -> Tensor:
        kept = torch.ones_like(gradient)
        kept[:, : gradient.shape[1] // 2] = 0
        return gradient * kept

    return call(**{**arguments, "Angles": with_gradient(arguments["Angles"], later)})


def given_state_returned(number: int) -> Spoil:
    """Make the fault: one of the states that a step returns is the one that it was given."""

    def spoil(call: Call, arguments: Arguments) -> Any:
        result, given = call(**arguments), arguments[STATES[number - 1]]
        return (*result[:number], given.to(result[number].dtype), *result[number + 1 :])

    return spoil


def drafted_before(call: Call, arguments: Arguments) -> Any:
    """A step begins with the states that a draft left, which was refused."""
    drafted = call(**arguments)[1:]
    return call(**{**arguments, **dict(zip(STATES, drafted, strict=True))})


def rotated_by_the_last_angle(call: Call, arguments: Arguments) -> Any:
    """q and k are rotated by the angle before the step; the state that is returned has grown."""
    still = call(**{**arguments, "Angles": torch.zeros_like(arguments["Angles"])})
    return (still[0], call(**arguments)[1], *still[2:])


FAULTS = (
    Fault(
        "mamba3_angles_across_sequences", SCAN, "The angles go on from one packed sequence into the next.",
        angles_across_sequences, (f"{MAMBA}/pull/911",),
        "reported of the operation with several inputs, whose angles are summed up by a function of its own",
    ),
    Fault(
        "mamba3_strides_ignored", SCAN, "A strided V is read as if its rows were those of a contiguous tensor.",
        with_argument("V", as_if_contiguous), (f"{MAMBA}/pull/911",),
        "the report is of strides that copies to shared memory cannot have; that they were ignored is an assumption",
    ),
    Fault(
        "mamba3_history_ignored", SCAN, "A call over several positions ignores the four states that it is given.",
        lambda call, arguments: call(**{**arguments, **dict.fromkeys(STATES)}),
        (f"{MAMBA}/pull/976", f"{MAMBA}/issues/641"),
        "the module of the released package never hands the states over",
    ),
    Fault(
        "mamba3_draft_not_rolled_back", STEP, "The state is that after a draft that was refused.",
        drafted_before, (f"{VLLM}/issues/39273",), "reported of Mamba-2; the draft is the same position",
    ),
    Fault(
        "mamba3_k_of_first_head", STEP, "Every head reads k of the last position from the first head.",
        with_argument("Input_K_State", lambda state: state[:, :1].expand_as(state)), (f"{MAMBA}/pull/866",),
        "the report is of an axis too few in that state; that one head was repeated is an assumption",
    ),
    Fault(
        "mamba3_k_not_kept", STEP, "k of the position is not kept for the next.",
        given_state_returned(3), (f"{SGLANG}/pull/26877",), "reported of Mamba-2's state",
    ),
    Fault("mamba3_angles_from_chunk", SCAN, "The angles of each chunk begin with zero.", angles_from_each_chunk),
    Fault("mamba3_trap_ignored", SCAN, "Euler's rule: the input of the position before weighs nothing.",
          with_argument("Trap", weighs_fully)),
    Fault("mamba3_trap_lags", SCAN, "Each position has the Trap of the position before.", step_lags("Trap")),
    Fault("mamba3_step_lags", SCAN, "Each position has the step size of the position before.", step_lags("DT")),
    Fault("mamba3_decay_lags", SCAN, "Each position has the decay of the position before.", step_lags("ADT")),
    Fault("mamba3_bias_of_first_head", SCAN, "Every head has the biases of the first.",
          with_arguments(("Q_bias", "K_bias"), lambda bias: bias[:1].expand_as(bias))),
    Fault("mamba3_k_bias_ignored", SCAN, "The bias of K is not added.", with_argument("K_bias", torch.zeros_like)),
    Fault("mamba3_q_bias_ignored", SCAN, "The bias of Q is not added.", with_argument("Q_bias", torch.zeros_like)),
    Fault("mamba3_heads_in_turns", SCAN, "Heads take the groups of Q and K in turns instead of in blocks.",
          heads_in_turns),
    Fault("mamba3_rotated_in_halves", SCAN, "Channel i is rotated with channel i + n / 2.", rotated_in_halves),
    Fault("mamba3_angle_of_earlier", SCAN, "The final angle is that of the position before.", state_of_earlier(1)),
    Fault("mamba3_k_of_earlier", SCAN, "The final k is that of the position before.", state_of_earlier(3)),
    Fault("mamba3_v_of_earlier", SCAN, "The final v is that of the position before.", state_of_earlier(4)),
    Fault("mamba3_next_sequence_steps", SCAN, "A packed sequence begins with the Trap of the next one.",
          next_sequence_steps),
    Fault("mamba3_early_angles_lost", SCAN, "The gradient of early angles is lost.", early_angles_without_gradient),
    Fault("mamba3_step_trap_ignored", STEP, "Euler's rule: the input of the position before weighs nothing.",
          with_argument("Trap", weighs_fully)),
    Fault("mamba3_step_k_bias_ignored", STEP, "The bias of K is not added.",
          with_argument("K_bias", torch.zeros_like)),
    Fault("mamba3_step_angle_kept", STEP, "The angle that is returned is the one that was given.",
          given_state_returned(1)),
    Fault("mamba3_step_rotates_late", STEP, "q and k are rotated by the angle before the step.",
          rotated_by_the_last_angle),
    Fault("mamba3_step_heads_in_turns", STEP, "Heads take the groups of Q and K in turns instead of in blocks.",
          heads_in_turns),
)  # fmt: skip
