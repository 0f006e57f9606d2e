"""Invariants: properties that an operation must have for any inputs, so that no reference is needed.

Each invariant calls the operation in two or more ways that must agree, and returns the pairs of results to compare.
`cases.yaml` says which case gives the inputs; PAIRS has the function of each invariant.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from scanproof.kernels import delta_invariants, state_invariants
from scanproof.kernels import mamba3_invariants as mamba3
from scanproof.kernels.batch_invariants import EVICTION, JOINING, SlottedStep, prefill_joined, served_as_alone
from scanproof.kernels.cases import KernelCase
from scanproof.kernels.delta_invariants import BATCHED, CHUNKS, DELTA_TIME, STEPS
from scanproof.kernels.rotation_invariants import ROTATED_TIME, ROTATION, rotation_packed, rotation_steps

Calls = Callable[[str], Callable[..., Any]]
"""Maps an operation's name to a callable that returns a tuple."""
Pair = tuple[str, Tensor, Tensor]
"""What is compared, and the two results that must agree."""
Inputs = Mapping[str, Any]

BOUND: Mapping[str, float] = MappingProxyType(
    {"float64": 1e-11, "float32": 2e-5, "tf32": 4e-3, "float16": 2e-3, "bfloat16": 1.6e-2}
)
"""Largest allowed rms difference divided by the rms value.  In halves and TF32 it is four unit roundoffs; in float32 it
is what mamba-ssm's softplus may lose (`operation.LOSSY_SOFTPLUS`), also for operations without a softplus.
docs/decisions/0005 has the measurements."""


WORST = 16
"""Largest allowed difference of one number, as a multiple of BOUND: one wrong number among thousands moves the rms by
less than rounding all of them does."""


def measure_difference(pair: Pair) -> tuple[float, float, tuple[int, ...]]:
    """rms(first - second) / rms(first); the largest |first - second| / (rms(first) + |first|); and the index of that.

    The differences are infinite if a number in one of the two is not finite.
    """
    first, second = (result.detach().to(torch.float64) for result in pair[1:])
    if not first.numel():
        return 0.0, 0.0, ()
    differences = torch.nan_to_num((first - second).abs(), nan=float("inf"))
    scale = float(first.square().mean().sqrt()) or 1.0
    relative = torch.nan_to_num(differences / (scale + first.abs()), nan=float("inf"))
    largest = torch.unravel_index(relative.argmax(), relative.shape)
    index = tuple(int(result) for result in largest)
    return float(differences.square().mean().sqrt()) / scale, float(relative[index]), index


def find_violations(case: KernelCase, pairs: list[Pair], tf32: bool = False) -> list[str]:
    """One line for each pair that differs in shape, or by more than BOUND and WORST allow for its dtype or TF32."""
    bound = BOUND["tf32" if tf32 else case.dtype]
    lines = []
    for pair in pairs:
        shapes = [tuple(result.shape) for result in pair[1:]]
        if shapes[0] != shapes[1]:
            lines.append(f"{case.id}: {pair[0]}: the shapes {shapes[0]} and {shapes[1]} should agree")
            continue
        distance, worst, index = measure_difference(pair)
        if not (distance <= bound and worst <= WORST * bound):
            name, first, second = pair
            at = ", ".join(map(str, index))
            lines.append(
                f"{case.id}: {name}[{at}]: {float(first[index]):.9g} and {float(second[index]):.9g} should agree; "
                f"rms difference {distance:.3g} (allowed {bound:.3g}), worst {worst:.3g} of rms and number (allowed "
                f"{WORST * bound:.3g})"
            )
    return lines


def _cut_time(inputs: Inputs, time_axes: dict[str, int], start: int, end: int) -> dict[str, Any]:
    """Cut the arguments that have a time axis to [start, end); the others stay.

    Args:
        time_axes: argument -> its time axis.
    """
    return {
        key: value.narrow(time_axes[key], start, end - start) if key in time_axes else value
        for key, value in inputs.items()
    }


SCAN_TIME = {"u": 2, "delta": 2, "B": 3, "C": 3, "z": 2}
SSD_TIME = {"x": 1, "dt": 1, "B": 1, "C": 1, "z": 1}
CONV_TIME = {"x": 2}


def scan_steps(calls: Calls, inputs: Inputs) -> list[Pair]:
    """Mamba-1: the scan over a sequence equals its decode steps."""
    y, last = calls("selective_scan_fn")(**{**inputs, "return_last_state": True})
    update = calls("selective_state_update")
    state, steps = torch.zeros_like(last), []
    for t in range(inputs["u"].shape[2]):
        out, *new = update(
            state=state, x=inputs["u"][..., t], dt=inputs["delta"][..., t], A=inputs["A"], B=inputs["B"][:, 0, :, t],
            C=inputs["C"][:, 0, :, t], D=inputs["D"], z=inputs["z"][..., t], dt_bias=inputs["delta_bias"],
            dt_softplus=inputs["delta_softplus"],
        )  # fmt: skip
        state = new[0] if new else state
        steps.append(out)
    return [("prefill and steps", y, torch.stack(steps, dim=2)), ("last state", last, state)]


def ssd_steps(calls: Calls, inputs: Inputs) -> list[Pair]:
    """Mamba-2: the chunked scan over a sequence equals its decode steps, gate and initial state included."""
    y, last = calls("mamba_chunk_scan_combined")(**{**inputs, "return_final_states": True})
    update = calls("selective_state_update")
    heads, headdim, states = last.shape[1:]
    # The decode steps keep their state in float32, so that only the prefill rounds it.
    state, steps = inputs["initial_states"].to(last.dtype).clone(), []
    tied = {
        "A": inputs["A"][:, None, None].expand(heads, headdim, states),
        "D": inputs["D"][:, None].expand(heads, headdim),
        "dt_bias": inputs["dt_bias"][:, None].expand(heads, headdim),
    }
    for t in range(inputs["x"].shape[1]):
        out, *new = update(
            state=state, x=inputs["x"][:, t], dt=inputs["dt"][:, t, :, None].expand(-1, -1, headdim),
            B=inputs["B"][:, t], C=inputs["C"][:, t], z=inputs["z"][:, t], dt_softplus=inputs["dt_softplus"], **tied,
        )  # fmt: skip
        state = new[0] if new else state
        steps.append(out)
    return [("prefill and steps", y, torch.stack(steps, dim=1)), ("last state", last, state)]


def conv_steps(calls: Calls, inputs: Inputs) -> list[Pair]:
    """The convolution over a sequence equals its decode steps."""
    (y,) = calls("causal_conv1d_fn")(**inputs)
    update, weight = calls("causal_conv1d_update"), inputs["weight"]
    state, steps = torch.zeros_like(inputs["x"][..., :1]).repeat(1, 1, weight.shape[1] - 1), []
    for t in range(inputs["x"].shape[2]):
        out, *new = update(
            x=inputs["x"][..., t], conv_state=state, weight=weight, bias=inputs["bias"], activation="silu"
        )
        state = new[0] if new else state
        steps.append(out)
    return [("prefill and steps", y, torch.stack(steps, dim=2))]


def attention_steps(calls: Calls, inputs: Inputs) -> list[Pair]:
    """Causal attention over a sequence equals its decode steps over a cache."""
    (y,) = calls("flash_attn_func")(**inputs)
    decode, q, k, v = calls("flash_attn_with_kvcache"), inputs["q"], inputs["k"], inputs["v"]
    k_cache, v_cache, steps = torch.zeros_like(k), torch.zeros_like(v), []
    for t in range(q.shape[1]):
        filled = torch.full((len(q),), t, dtype=torch.int32, device=q.device)
        now = slice(t, t + 1)
        out, *new = decode(
            q=q[:, now], k_cache=k_cache, v_cache=v_cache, k=k[:, now], v=v[:, now], cache_seqlens=filled, causal=True
        )
        k_cache, v_cache = new or (k_cache, v_cache)
        steps.append(out)
    return [("prefill and steps", y, torch.cat(steps, dim=1))]


def ssd_split(calls: Calls, inputs: Inputs) -> list[Pair]:
    """Mamba-2: a sequence in two parts, with the state carried over, equals the whole, at every offset of a chunk."""
    scan = calls("mamba_chunk_scan_combined")
    inputs = {**inputs, "return_final_states": True}
    y, last = scan(**inputs)
    length, pairs = inputs["x"].shape[1], []
    for cut in (*range(1, inputs["chunk_size"] + 2), length - 1):
        first, state = scan(**_cut_time(inputs, SSD_TIME, 0, cut))
        # The state is passed on in float32, as it was returned.
        second, end = scan(**{**_cut_time(inputs, SSD_TIME, cut, length), "initial_states": state})
        pairs += [(f"cut at {cut}: y", y, torch.cat([first, second], dim=1)), (f"cut at {cut}: state", last, end)]
    return pairs


def conv_split(calls: Calls, inputs: Inputs) -> list[Pair]:
    """The convolution of a sequence in two parts equals that of the whole; the state is the last inputs."""
    conv = calls("causal_conv1d_fn")
    inputs = {**inputs, "return_final_states": True}
    y, last = conv(**inputs)
    length, pairs = inputs["x"].shape[2], []
    for cut in {1, 2, 3, length - 1}:
        first, state = conv(**_cut_time(inputs, CONV_TIME, 0, cut))
        second, end = conv(**{**_cut_time(inputs, CONV_TIME, cut, length), "initial_states": state})
        pairs += [(f"cut at {cut}: y", y, torch.cat([first, second], dim=2)), (f"cut at {cut}: state", last, end)]
    return pairs


def ssd_chunk_size(calls: Calls, inputs: Inputs) -> list[Pair]:
    """Mamba-2: the result does not depend on the number of positions per chunk."""
    scan = calls("mamba_chunk_scan_combined")
    y, last = scan(**inputs)
    pairs = []
    for chunk in (16, 64, 128):
        other, state = scan(**{**inputs, "chunk_size": chunk})
        pairs += [(f"chunk {chunk}: y", y, other), (f"chunk {chunk}: state", last, state)]
    return pairs


def neighbours(name: str, batched: tuple[str, ...]) -> Callable[[Calls, Inputs], list[Pair]]:
    """Make the invariant: the result of a row does not depend on the other rows of the batch.

    Args:
        name: the operation.
        batched: its arguments that have a batch axis, which comes first.
    """

    def pairs(calls: Calls, inputs: Inputs) -> list[Pair]:
        call = calls(name)
        whole, compared = call(**inputs), []
        for row in range(len(inputs[batched[0]])):
            alone = call(**{key: value[row : row + 1] if key in batched else value for key, value in inputs.items()})
            compared += [(f"row {row} alone", all_[row], one[0]) for all_, one in zip(whole, alone, strict=True)]
        return compared

    return pairs


def right_padding(name: str, times: dict[str, int], out: int) -> Callable[[Calls, Inputs], list[Pair]]:
    """Make the invariant: positions to the right do not change a result; evaluations pad their batches on the right.

    Args:
        name: the operation.
        times: argument -> its time axis.
        out: the time axis of the result.
    """

    def pairs(calls: Calls, inputs: Inputs) -> list[Pair]:
        call = calls(name)
        length = next(inputs[key].shape[axis] for key, axis in times.items() if key in inputs)
        shorter = length // 2 + 1
        whole, short = call(**inputs)[0], call(**_cut_time(inputs, times, 0, shorter))[0]
        return [("with and without padding", whole.narrow(out, 0, shorter), short)]

    return pairs


def ssd_packed(calls: Calls, inputs: Inputs) -> list[Pair]:
    """Mamba-2: sequences packed into one row give the same results as each sequence alone."""
    scan = calls("mamba_chunk_scan_combined")
    y = scan(**inputs)[0]
    alone = {key: value for key, value in inputs.items() if key != "seq_idx"}
    ends = [0, *torch.cumsum(torch.unique_consecutive(inputs["seq_idx"][0], return_counts=True)[1], 0).tolist()]
    spans = itertools.pairwise(ends)
    parts = [scan(**_cut_time(alone, SSD_TIME, start, end))[0] for start, end in spans]
    return [("packed and separate", y, torch.cat(parts, dim=1))]


def conv_packed(calls: Calls, inputs: Inputs) -> list[Pair]:
    """The convolution of sequences packed into one row equals that of each sequence alone."""
    conv = calls("causal_conv1d_fn")
    (y,) = conv(**inputs)
    alone = {key: value for key, value in inputs.items() if key != "seq_idx"}
    ends = [0, *torch.cumsum(torch.unique_consecutive(inputs["seq_idx"][0], return_counts=True)[1], 0).tolist()]
    parts = [conv(**_cut_time(alone, CONV_TIME, start, end))[0] for start, end in itertools.pairwise(ends)]
    return [("packed and separate", y, torch.cat(parts, dim=2))]


def conv_states_packed(calls: Calls, inputs: Inputs) -> list[Pair]:
    """The states of sequences packed into one row are those of each sequence alone, and its last inputs after zeros."""
    call, length = calls("causal_conv1d_varlen_states"), inputs["state_len"]
    (states,) = call(**inputs)
    ends = inputs["cu_seqlens"].tolist()
    alone, last = [], []
    for start, end in itertools.pairwise(ends):
        x = inputs["x"][start:end]
        alone.append(call(x=x, cu_seqlens=inputs["cu_seqlens"].new_tensor([0, len(x)]), state_len=length)[0])
        kept = x[max(0, len(x) - length) :]
        last.append(torch.cat([kept.new_zeros(length - len(kept), kept.shape[1]), kept]).mT[None])
    return [("packed and separate", states, torch.cat(alone)), ("states and last inputs", states, torch.cat(last))]


def attention_packed(calls: Calls, inputs: Inputs) -> list[Pair]:
    """Attention of sequences packed into one row equals that of each sequence alone, by flash_attn_func."""
    (y,) = calls("flash_attn_varlen_func")(**inputs)
    ends = inputs["cu_seqlens_q"].tolist()
    parts = [
        calls("flash_attn_func")(**{key: inputs[key][None, start:end] for key in ("q", "k", "v")}, causal=True)[0][0]
        for start, end in itertools.pairwise(ends)
    ]
    return [("packed and separate", y, torch.cat(parts))]


SSD, SCAN, CONV, SPLIT = (
    "mamba_chunk_scan_combined", "selective_scan_fn", "causal_conv1d_fn", "mamba_split_conv1d_scan_combined",
)  # fmt: skip
ATTENTION, VARLEN, NORM = "flash_attn_func", "flash_attn_varlen_func", "rmsnorm_fn"
STATES, STEP = "causal_conv1d_varlen_states", "selective_state_update"
CONV_STEP, CACHE = "causal_conv1d_update", "flash_attn_with_kvcache"

SLOTTED = (
    SlottedStep(STEP, ("state",), "state_batch_indices", ("x", "dt", "B", "C", "z")),
    SlottedStep(CONV_STEP, ("conv_state",), "conv_state_indices", ("x",), time=-1, counts="cache_seqlens"),
    SlottedStep(
        CACHE, ("k_cache", "v_cache"), "cache_batch_idx", ("q", "k", "v"), time=1, counts="cache_seqlens",
    ),
)  # fmt: skip
"""Operations that go on from a state in a slot."""

PAIRS: Mapping[tuple[str, str], Callable[[Calls, Inputs], list[Pair]]] = MappingProxyType(
    {
        ("steps", SCAN): scan_steps,
        ("steps", SSD): ssd_steps,
        ("steps", CONV): conv_steps,
        ("steps", ATTENTION): attention_steps,
        ("split", SSD): ssd_split,
        ("split", CONV): conv_split,
        ("split", CACHE): state_invariants.cache_split,
        ("chunk_size", SSD): ssd_chunk_size,
        ("neighbours", SSD): neighbours(SSD, ("x", "dt", "B", "C", "z", "initial_states")),
        ("neighbours", SCAN): neighbours(SCAN, ("u", "delta", "B", "C", "z")),
        ("neighbours", CONV): neighbours(CONV, ("x",)),
        ("neighbours", ATTENTION): neighbours(ATTENTION, ("q", "k", "v")),
        ("neighbours", NORM): neighbours(NORM, ("x", "z")),
        ("padding", SSD): right_padding(SSD, SSD_TIME, 1),
        ("padding", SCAN): right_padding(SCAN, SCAN_TIME, 2),
        ("padding", CONV): right_padding(CONV, CONV_TIME, 2),
        ("padding", SPLIT): right_padding(SPLIT, {"zxbcdt": 1}, 1),
        ("packed", SSD): ssd_packed,
        ("packed", CONV): conv_packed,
        ("packed", VARLEN): attention_packed,
        ("packed", STATES): conv_states_packed,
        ("steps", ROTATION): rotation_steps,
        ("neighbours", ROTATION): neighbours(ROTATION, ("x", "seqlen_offsets")),
        ("padding", ROTATION): right_padding(ROTATION, ROTATED_TIME, 1),
        ("packed", ROTATION): rotation_packed,
        ("steps", mamba3.SCAN): mamba3.steps,
        ("split", mamba3.SCAN): mamba3.split,
        ("chunk_size", mamba3.SCAN): mamba3.chunk_size,
        ("neighbours", mamba3.SCAN): neighbours(mamba3.SCAN, (*mamba3.TIME, *mamba3.STATES)),
        ("neighbours", mamba3.STEP): neighbours(mamba3.STEP, (*mamba3.TIME, *mamba3.STATES)),
        ("padding", mamba3.SCAN): right_padding(mamba3.SCAN, mamba3.TIME, 1),
        ("packed", mamba3.SCAN): mamba3.packed,
        ("rollback", mamba3.SCAN): mamba3.rollback,
        ("slots", STEP): state_invariants.slots(STEP, ("state",), "state_batch_indices"),
        ("slots", CONV_STEP): state_invariants.slots(CONV_STEP, ("conv_state",), "conv_state_indices"),
        ("slots", CACHE): state_invariants.slots(CACHE, ("k_cache", "v_cache"), "cache_batch_idx"),
        ("tenant", CACHE): state_invariants.cache_tenant,
        ("rollback", SSD): state_invariants.ssd_rollback,
        ("rollback", CONV_STEP): state_invariants.conv_rollback,
        ("ring_rollback", CONV_STEP): state_invariants.ring_rollback,
        ("rollback", CACHE): state_invariants.cache_rollback,
        ("steps", CHUNKS): delta_invariants.delta_steps,
        ("split", CHUNKS): delta_invariants.delta_split,
        ("neighbours", CHUNKS): neighbours(CHUNKS, BATCHED),
        ("neighbours", STEPS): neighbours(STEPS, BATCHED),
        ("padding", CHUNKS): right_padding(CHUNKS, DELTA_TIME, 1),
        ("packed", CHUNKS): delta_invariants.delta_packed(CHUNKS),
        ("packed", STEPS): delta_invariants.delta_packed(STEPS),
        ("rollback", CHUNKS): delta_invariants.delta_rollback,
        **{("joining", step.name): served_as_alone(step, JOINING) for step in SLOTTED},
        **{("eviction", step.name): served_as_alone(step, EVICTION) for step in SLOTTED},
        ("joining", SSD): prefill_joined(SSD, SSD_TIME, 1, "initial_states"),
        ("joining", CONV): prefill_joined(CONV, CONV_TIME, 2, "initial_states"),
    }
)
"""(invariant, operation) -> function that makes the pairs of results that must agree."""
