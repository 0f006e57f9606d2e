"""Reported faults of the causal convolutions."""

from __future__ import annotations

import itertools
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from scanproof.faults.changes import as_if_contiguous, output_of, with_argument, with_gradient, with_output, wrapped
from scanproof.faults.fault import Arguments, Call, Fault
from scanproof.faults.scans import FLA, MAMBA, TRANSFORMERS, VLLM, at_size, wrapped_rows

DAO = "https://github.com/Dao-AILab/causal-conv1d"
CONV, UPDATE, STATES = "causal_conv1d_fn", "causal_conv1d_update", "causal_conv1d_varlen_states"


def outputs_as_state(call: Call, arguments: Arguments) -> Any:
    """final_states holds the last outputs instead of the last inputs."""
    result = call(**arguments)
    if not arguments.get("return_final_states"):
        return result
    y, state = result
    count = min(state.shape[-1], y.shape[-1])
    return y, torch.cat([state[..., : state.shape[-1] - count], y[..., y.shape[-1] - count :]], dim=-1)


def outputs_in_cache(call: Call, arguments: Arguments) -> Any:
    """The outputs are written into the cache in place of the inputs."""
    y = call(**{**arguments, "conv_state": arguments["conv_state"].clone()})
    call(**{**arguments, "x": y})
    return y


def only_last_outputs(call: Call, arguments: Arguments) -> Any:
    """Of the padded output only the last w - 1 positions are returned."""
    width = arguments["weight"].shape[-1]
    return with_output(call(**arguments), lambda y: y[..., -(width - 1) :])


def sees_the_future(call: Call, arguments: Arguments) -> Any:
    """The output is cut w - 1 positions too late, so that each output depends on later inputs."""
    if arguments.get("seq_idx") is not None or arguments.get("initial_states") is not None:
        return call(**arguments)
    ahead = arguments["weight"].shape[-1] - 1
    longer = output_of(call(**{**arguments, "x": F.pad(arguments["x"], (0, ahead))}))
    return with_output(call(**arguments), lambda _: longer[..., ahead:])


def tail_of_no_sequence(call: Call, arguments: Arguments) -> Any:
    """The sequence number of the last position is read past the end, so that it belongs to no sequence."""
    numbers = arguments.get("seq_idx")
    if numbers is None:
        return call(**arguments)
    outside = torch.cat([numbers[:, :-1], torch.full_like(numbers[:, -1:], 2**20)], dim=1)
    return call(**{**arguments, "seq_idx": outside})


def gradient_as_if_contiguous(call: Call, arguments: Arguments) -> Any:
    """The backward pass ignores the strides of the output's gradient."""
    return with_output(call(**arguments), lambda y: with_gradient(y, as_if_contiguous))


def weight_gradient_per_row(call: Call, arguments: Arguments) -> Any:
    """With packed sequences, the weight's gradient is too large by the number of rows of the batch."""
    if arguments.get("seq_idx") is None:
        return call(**arguments)
    rows = len(arguments["x"])
    return call(**{**arguments, "weight": with_gradient(arguments["weight"], lambda gradient: gradient * rows)})


def state_gradient_shifted(call: Call, arguments: Arguments) -> Any:
    """In sequences shorter than w - 1 the state's gradient reaches the wrong positions."""
    result = call(**arguments)
    if not arguments.get("return_final_states"):
        return result
    y, state = result
    missing = state.shape[-1] - y.shape[-1]
    return (y, with_gradient(state, lambda gradient: gradient.roll(missing, -1))) if missing > 0 else result


def first_token_only(call: Call, arguments: Arguments) -> Any:
    """Of several new positions only the first one is computed and reaches the state; its output is repeated."""
    x = arguments["x"]
    if x.dim() == 2 or x.shape[-1] == 1:
        return call(**arguments)
    return call(**{**arguments, "x": x[..., :1]}).expand_as(x)


def history_ignored(call: Call, arguments: Arguments) -> Any:
    """initial_states is ignored."""
    return call(**{**arguments, "initial_states": None})


def not_written(call: Call, arguments: Arguments) -> Any:
    """The state stays as it was."""
    return call(**{**arguments, "conv_state": arguments["conv_state"].clone()})


def ring_restarts(value: Tensor) -> Tensor:
    """Every call begins the ring at its first place."""
    return torch.zeros_like(value)


def sequence_before(call: Call, arguments: Arguments) -> Any:
    """The state of a sequence that is shorter than it goes on with the sequence before."""
    padded = F.pad(arguments["x"], (0, 0, arguments["state_len"], 0))
    ends = arguments["cu_seqlens"][1:].tolist()
    return torch.stack([padded[end : end + arguments["state_len"]].mT for end in ends])


def first_inputs(call: Call, arguments: Arguments) -> Any:
    """The state holds the first inputs of a sequence and not the last."""
    ends = arguments["cu_seqlens"].tolist()
    parts = [arguments["x"][start:end].flip(0) for start, end in itertools.pairwise(ends)]
    return call(**{**arguments, "x": torch.cat(parts)}).flip(-1)


FAULTS = (
    Fault(
        "conv_offset_wraps", CONV, "An offset in 32 bits wraps: late positions read from the start of the sequence.",
        with_argument("x", wrapped(-1)), (f"{DAO}/pull/114",), at_size("2^32 elements", "past_2_32"),
    ),
    Fault(
        "conv_seq_idx_outside", CONV, "seq_idx is read past its end at the tail of the last chunk.",
        tail_of_no_sequence, (f"{DAO}/issues/67", f"{DAO}/pull/101", f"{DAO}/pull/117"),
    ),
    Fault(
        "conv_state_after", CONV, "final_states holds values from after the convolution.",
        outputs_as_state, (f"{MAMBA}/pull/1027",),
    ),
    Fault(
        "conv_history_ignored", CONV, "A call over several positions ignores the cached inputs.",
        history_ignored, (f"{MAMBA}/issues/641", f"{TRANSFORMERS}/pull/46084"),
    ),
    Fault(
        "conv_last_slice", CONV, "The output is cut to its last w - 1 positions.",
        only_last_outputs, (f"{MAMBA}/pull/580", "https://github.com/jxiw/MambaInLlama/issues/27"),
    ),
    Fault(
        "conv_future_slice", CONV, "The output is cut w - 1 positions late, so that it sees the future.",
        sees_the_future, (f"{MAMBA}/issues/437",),
        "the report is of an output that was not cut at all; cut at the wrong end it has the right length",
    ),
    Fault(
        "conv_gradient_strides", CONV, "The backward pass reads a strided output gradient as if it were contiguous.",
        gradient_as_if_contiguous, (f"{FLA}/pull/871", f"{FLA}/issues/1138"),
    ),
    Fault(
        "conv_weight_gradient_packed", CONV, "The weight's gradient is too large for packed rows of a batch.",
        weight_gradient_per_row, (f"{FLA}/pull/955",),
    ),
    Fault(
        "conv_short_gradient", CONV, "The final state's gradient is shifted in sequences shorter than w - 1.",
        state_gradient_shifted, (f"{FLA}/issues/1140", f"{FLA}/pull/1141"),
    ),
    Fault(
        "conv_update_state_after", UPDATE, "The cache takes in values from after the convolution.",
        outputs_in_cache, (f"{MAMBA}/pull/1027",),
    ),
    Fault(
        "conv_update_first_token", UPDATE, "Of several new positions all but the first are dropped.",
        first_token_only, (f"{TRANSFORMERS}/pull/46084",),
    ),
    Fault(
        "conv_update_row_wraps", UPDATE, "A row number times a stride wraps: the wrong rows of the cache are used.",
        wrapped_rows("conv_state", "conv_state_indices"), (f"{VLLM}/pull/20938",), at_size("a cache of 2^31 elements"),
    ),
    Fault(
        "conv_states_wrap", STATES, "A row number times a stride wraps: late inputs are read from the start.",
        with_argument("x", wrapped(0)), (f"{DAO}/pull/114",), at_size("2^31 elements"),
    ),
    Fault(
        "conv_states_of_others", STATES, "A sequence shorter than its state has inputs of the sequence before in it.",
        sequence_before,
    ),
    Fault("conv_states_first", STATES, "The state holds a sequence's first inputs.", first_inputs),
    Fault("conv_update_not_written", UPDATE, "The cache is not updated.", not_written),
    Fault(
        "conv_update_ring_restarts", UPDATE, "The ring begins at its first place in every call.",
        with_argument("cache_seqlens", ring_restarts),
    ),
)  # fmt: skip
