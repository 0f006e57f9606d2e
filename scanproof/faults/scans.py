"""Reported faults of the scans of Mamba-1 and Mamba-2, and of their decode steps."""

from __future__ import annotations

import itertools
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from scanproof.faults.changes import (
    as_if_contiguous,
    cut_time,
    first_row_for_all,
    first_row_for_last,
    output_of,
    with_argument,
    with_arguments,
    with_gradient,
    with_output,
    wrapped,
)
from scanproof.faults.fault import Arguments, Call, Fault

MAMBA = "https://github.com/state-spaces/mamba"
VLLM = "https://github.com/vllm-project/vllm"
SGLANG = "https://github.com/sgl-project/sglang"
FLA = "https://github.com/fla-org/flash-linear-attention"
TRANSFORMERS = "https://github.com/huggingface/transformers"
SCAN, INNER, STEP = "selective_scan_fn", "mamba_inner_fn", "selective_state_update"
SSD, SPLIT = "mamba_chunk_scan_combined", "mamba_split_conv1d_scan_combined"
SSD_TIME = {"x": -3, "dt": -2, "B": -3, "C": -3, "z": -3, "seq_idx": -1}


def at_size(needs: str, row: str | None = None) -> str:
    """Note for a fault that needs very large tensors: how it is planted, and whether a case of the suite is that large.

    Args:
        needs: the size from which the reported fault appears.
        row: the case of the suite that is large enough; None: there is none.
    """
    reached = f"the row `{row}` reaches it on a GPU" if row else "no row of the suite reaches it"
    return f"planted at the size of each case; the reported one needs {needs}: {reached}"


def A_from_bfloat16(A: Tensor) -> Tensor:
    """A is computed as -exp of a logarithm that is kept in bfloat16."""
    return -torch.exp(torch.log(-A).to(torch.bfloat16)).to(A.dtype)


def constant_B_forgotten(call: Call, arguments: Arguments) -> Any:
    """If B is constant in time, the last state lacks the factor B."""
    result = call(**arguments)
    if not isinstance(result, tuple) or arguments["B"].dim() != 2:
        return result
    return (result[0], result[1] / arguments["B"])


def last_gradient_is_first(call: Call, arguments: Arguments) -> Any:
    """The backward pass of the last row reads the states of the first."""
    return call(**{**arguments, "u": with_gradient(arguments["u"], first_row_for_last)})


def heads_in_turns(call: Call, arguments: Arguments) -> Any:
    """Head i reads group i mod g of B and C instead of i // (h / g)."""
    heads = arguments["x"].shape[2]
    turns = torch.arange(heads, device=arguments["x"].device) % arguments["B"].shape[2]
    return call(**{**arguments, **{name: arguments[name].index_select(2, turns) for name in ("B", "C")}})


def dt_twice(call: Call, arguments: Arguments) -> Any:
    """Bias and softplus are applied to dt twice: before the call and inside it."""
    bias = arguments.get("dt_bias")
    dt = arguments["dt"] if bias is None else arguments["dt"] + bias
    return call(**{**arguments, "dt": F.softplus(dt).to(arguments["dt"].dtype)})


def effective_dt(arguments: Arguments) -> Tensor:
    """dt after bias, softplus and limits: (b, l, h)."""
    dt = arguments["dt"].detach().to(torch.float32)
    if arguments.get("dt_bias") is not None:
        dt = dt + arguments["dt_bias"].detach()
    if arguments.get("dt_softplus"):
        dt = F.softplus(dt)
    low, high = arguments.get("dt_limit", (0.0, float("inf")))
    return torch.as_tensor(dt.clamp(low, high))


def initial_dropped_at_batch_1(call: Call, arguments: Arguments) -> Any:
    """initial_states is ignored if the batch has one row."""
    one = len(arguments["x"]) == 1 and arguments.get("initial_states") is not None
    return call(**({**arguments, "initial_states": None} if one else arguments))


def initial_not_decayed(call: Call, arguments: Arguments) -> Any:
    """The initial state enters the second chunk without the decay of the first chunk."""
    initial, chunk, length = arguments.get("initial_states"), arguments["chunk_size"], arguments["x"].shape[1]
    if initial is None or arguments.get("seq_idx") is not None or length <= chunk:
        return call(**arguments)
    first = cut_time(arguments, SSD_TIME, 0, chunk)
    y = output_of(call(**first))
    state = call(**{**first, "initial_states": None, "return_final_states": True})[1] + initial
    second = call(**{**cut_time(arguments, SSD_TIME, chunk, length), "initial_states": state})
    return with_output(second, lambda later: torch.cat([y, later], dim=1))


def decayed_from_the_chunk(call: Call, arguments: Arguments) -> Any:
    """The state of a sequence that begins inside a chunk decays from the start of the chunk, not of the sequence."""
    numbers, chunk, length = arguments.get("seq_idx"), arguments["chunk_size"], arguments["x"].shape[1]
    if numbers is None or arguments.get("cu_seqlens") is not None:
        return call(**arguments)
    start = int((numbers[0] != numbers[0, -1]).sum())
    grid, end = start // chunk * chunk, -(-(start + 1) // chunk) * chunk
    if start == grid or end >= length:
        return call(**arguments)
    alone = {**arguments, "seq_idx": None, "initial_states": None, "return_final_states": True}
    _, state, *_ = call(**cut_time(alone, SSD_TIME, start, end))
    extra = torch.exp((effective_dt(arguments)[:, grid:start] * arguments["A"].detach()).sum(1))
    second = call(**{**cut_time(alone, SSD_TIME, end, length), "initial_states": state * extra[..., None, None]})
    result = call(**arguments)
    y = torch.cat([output_of(result)[:, :end], second[0]], dim=1)
    return (y, second[1], *result[2:]) if arguments.get("return_final_states") else y


def state_off_the_grid(call: Call, arguments: Arguments) -> Any:
    """For a sequence that begins inside a chunk, varlen_states contains the state of an earlier position."""
    result, ends = call(**arguments), arguments.get("cu_seqlens")
    if ends is None or not arguments.get("return_varlen_states"):
        return result
    states, bounds = result[-1].clone(), ends.tolist()
    for number, (start, end) in enumerate(itertools.pairwise(bounds)):
        off = start % arguments["chunk_size"]
        alone = {
            **arguments, "seq_idx": None, "cu_seqlens": None, "initial_states": None,
            "return_final_states": True, "return_varlen_states": False,
        }  # fmt: skip
        if off and end - start > off:
            states[number] = call(**cut_time(alone, SSD_TIME, start, end - off))[1][0]
        elif off:
            states[number] = 0
    return (*result[:-1], states)


def last_state_of_first_row(call: Call, arguments: Arguments) -> Any:
    """The last row's final state is replaced by that of the first row."""
    result = call(**arguments)
    return (result[0], first_row_for_last(result[1]), *result[2:]) if arguments.get("return_final_states") else result


def state_not_written(call: Call, arguments: Arguments) -> Any:
    """The step is computed, but its state is not written back."""
    return call(**{**arguments, "state": arguments["state"].clone()})


def wrapped_rows(name: str, rows: str) -> Any:
    """Make the fault: row numbers in the second half of a cache overflow to the first half, for reading and writing."""

    def spoil(call: Call, arguments: Arguments) -> Any:
        given = arguments.get(rows)
        if given is None:
            return call(**arguments)
        half = len(arguments[name]) // 2
        return call(**{**arguments, rows: torch.where(given < half, given, given - half)})

    return spoil


def padding_written(call: Call, arguments: Arguments) -> Any:
    """A negative row number, which marks padding, counts from the end as an index does."""
    given = arguments.get("state_batch_indices")
    if given is None:
        return call(**arguments)
    real = torch.where(given < 0, given + len(arguments["state"]), given)
    return call(**{**arguments, "state_batch_indices": real})


def gate_order_swapped(call: Call, arguments: Arguments) -> Any:
    """The gate goes before the norm where it belongs after it, and the other way round."""
    return call(**{**arguments, "norm_before_gate": not arguments.get("norm_before_gate", True)})


FAULTS = (
    Fault(
        "scan_stride_truncated", SCAN, "A batch stride stored in 32 bits is 0: every row reads the first row's u.",
        with_argument("u", first_row_for_all), (f"{MAMBA}/issues/880",), at_size("2^32 elements"),
    ),
    Fault(
        "scan_state_buffer_wraps", SCAN, "The backward pass of the last row reads the first row's chunk states.",
        last_gradient_is_first, (f"{MAMBA}/issues/884", f"{MAMBA}/pull/883"),
        at_size("batch x dim x chunks x dstate past 2^31"),
    ),
    Fault(
        "scan_last_state_without_B", SCAN, "last_state lacks the factor B where B is constant in time.",
        constant_B_forgotten, (f"{MAMBA}/pull/371",),
    ),
    Fault(
        "scan_A_from_bf16", SCAN, "A is the exponential of a logarithm kept in bfloat16.",
        with_argument("A", A_from_bfloat16), ("https://github.com/ml-explore/mlx-lm/pull/1028",),
    ),
    Fault(
        "inner_stride_truncated", INNER, "A batch stride stored in 32 bits is 0: every row reads the first row's xz.",
        with_argument("xz", first_row_for_all), (f"{MAMBA}/issues/880",), at_size("2^32 elements"),
    ),
    Fault(
        "step_state_not_written", STEP, "The step's state is not written back.",
        state_not_written, (f"{SGLANG}/pull/26877", f"{SGLANG}/pull/26838"),
    ),
    Fault(
        "step_row_wraps", STEP, "A row number times a stride wraps: states are read and written in the wrong rows.",
        wrapped_rows("state", "state_batch_indices"), (f"{VLLM}/pull/35275",),
        at_size("a cache of 2^32 elements", "past_2_32"),
    ),
    Fault(
        "step_padding_written", STEP, "A padded row (index -1) updates the last row of the cache.",
        padding_written, (f"{MAMBA}/pull/792",),
    ),
    Fault("step_dt_twice", STEP, "dt has its bias and softplus before the call, and again inside.",
          dt_twice, (f"{FLA}/issues/63",)),
    Fault(
        "ssd_dt_wraps", SSD, "The offset of a late chunk's dt wraps: an earlier chunk's dt is read.",
        with_argument("dt", wrapped(1)), (f"{MAMBA}/issues/1015", f"{MAMBA}/pull/987"),
        at_size("dt as a part of a much wider tensor"),
    ),
    Fault(
        "ssd_projections_wrap", SSD, "The batch offset of B and C wraps: the last row reads the first row's.",
        with_arguments(("B", "C"), first_row_for_last), (f"{MAMBA}/issues/1015", f"{MAMBA}/pull/1034"),
        at_size("2^31 elements of B C^T"),
    ),
    Fault(
        "ssd_states_wrap", SSD, "The batch offset of the states wraps: the last row has the first row's state.",
        last_state_of_first_row, (f"{MAMBA}/issues/1015", f"{MAMBA}/pull/1035"), at_size("2^31 elements of states"),
    ),
    Fault(
        "ssd_A_from_bf16", SSD, "A is the exponential of a logarithm kept in bfloat16.",
        with_argument("A", A_from_bfloat16), (f"{MAMBA}/pull/923",),
    ),
    Fault("ssd_dt_twice", SSD, "dt has its bias and softplus before the call, and again inside.",
          dt_twice, (f"{FLA}/issues/63",)),
    Fault(
        "ssd_initial_dropped", SSD, "initial_states is ignored where the batch has one row.",
        initial_dropped_at_batch_1, (f"{VLLM}/pull/22034",),
    ),
    Fault(
        "ssd_history_ignored", SSD, "A call over several positions ignores the cached state.",
        lambda call, arguments: call(**{**arguments, "initial_states": None}),
        (f"{MAMBA}/issues/641", f"{TRANSFORMERS}/pull/46084"),
    ),
    Fault(
        "ssd_initial_not_decayed", SSD, "The initial state enters the second chunk without the first chunk's decay.",
        initial_not_decayed, (f"{VLLM}/pull/21783",),
    ),
    Fault(
        "ssd_decay_from_chunk", SSD,
        "The state of a sequence that begins inside a chunk is decayed from the chunk's start.",
        decayed_from_the_chunk, (f"{VLLM}/pull/23279",),
    ),
    Fault(
        "ssd_state_off_grid", SSD, "The state of a sequence that begins off the chunk grid is an earlier one.",
        state_off_the_grid, (f"{SGLANG}/issues/31833", f"{SGLANG}/pull/33450"),
    ),
    Fault(
        "ssd_strides_ignored", SSD, "A strided x is read as if it were contiguous.",
        with_argument("x", as_if_contiguous), (f"{VLLM}/pull/14848",),
        "the report says that a copy was removed and accuracy fell to 0; that strides were ignored is an assumption",
    ),
    Fault(
        "ssd_heads_in_turns", SSD, "Heads take the groups of B and C in turns instead of in blocks.",
        heads_in_turns, (f"{TRANSFORMERS}/pull/37533", f"{MAMBA}/issues/716"),
        "one cause of a slow path that disagrees with the fast one; what caused issue 716 is not known",
    ),
    Fault(
        "split_gate_order", SPLIT, "The gate goes on the other side of the norm.",
        gate_order_swapped, (f"{FLA}/issues/63",),
    ),
    Fault(
        "split_batch_wraps", SPLIT, "The batch offset of the convolution wraps: the last row reads the first row's.",
        with_argument("zxbcdt", first_row_for_last), (f"{MAMBA}/issues/1015", f"{MAMBA}/pull/1037"),
        at_size("zxbcdt past 2^32 elements"),
    ),
)  # fmt: skip
