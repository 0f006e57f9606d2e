"""Generic faults: faults that any kernel may have, planted into every operation where they make sense."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from scanproof.faults import mamba3
from scanproof.faults.changes import cut_time, output_of, rms, with_arguments, with_output
from scanproof.faults.fault import Arguments, Call, Fault, Spoil, WithMemory
from scanproof.kernels.references.precision import tf32

PARTS = 16
"""A sum in bfloat16 is made of at most this many parts; the running sum is rounded after each."""


@dataclass(frozen=True)
class OperationTraits:
    """What the generic faults need to know about an operation."""

    op: str
    out_time: int | None = None
    """Time axis of the output, counted from the end; None: the output has no time axis."""
    times: Mapping[str, int] = field(default_factory=dict)
    """Argument -> its time axis, counted from the end; only for operations that carry a state through time."""
    history: tuple[str, ...] = ()
    """Arguments that contain the state of earlier positions."""
    narrow: tuple[str, ...] = ()
    """Arguments that the fault `tf32` cuts to ten bits of mantissa; empty for operations that use TF32 on purpose."""
    summed: tuple[str, int] | None = None
    """An argument in which the output is linear, and its axis over which the operation sums."""
    after: tuple[str, ...] = ()
    """Arguments that are applied after that sum, in this order."""
    wide_state: bool = False
    """Whether it returns a state in float32 for inputs of any dtype."""


OPERATIONS = (
    OperationTraits(
        "selective_scan_fn", -1, {"u": -1, "delta": -1, "B": -1, "C": -1, "z": -1},
        narrow=("u", "B", "C"), summed=("C", -2), after=("D", "z"), wide_state=True,
    ),
    OperationTraits("mamba_inner_fn", -2, {"xz": -1}, summed=("out_proj_weight", -1), after=("out_proj_bias",)),
    OperationTraits(
        "selective_state_update",
        history=("state",), narrow=("x", "B", "C"), summed=("C", -1), after=("D", "z"),
    ),
    OperationTraits(
        "mamba_chunk_scan_combined", -3, {"x": -3, "dt": -2, "B": -3, "C": -3, "z": -3, "seq_idx": -1},
        history=("initial_states",), summed=("C", -1), after=("D", "z"), wide_state=True,
    ),
    OperationTraits(
        "mamba_split_conv1d_scan_combined", -2, {"zxbcdt": -2, "seq_idx": -1},
        history=("initial_states",), summed=("outproj_weight", -1), after=("outproj_bias",),
    ),
    OperationTraits(
        "mamba3_siso_combined", -3, mamba3.TIME, history=mamba3.STATES, wide_state=True,
    ),
    OperationTraits("mamba3_siso_step", history=mamba3.STATES, wide_state=True),
    OperationTraits(
        "causal_conv1d_fn", -1, {"x": -1, "seq_idx": -1},
        history=("initial_states",), narrow=("x", "weight"), summed=("weight", -1), after=("bias", "activation"),
    ),
    OperationTraits(
        "causal_conv1d_update", -1,
        history=("conv_state",), narrow=("x", "weight"), summed=("weight", -1), after=("bias", "activation"),
    ),
    OperationTraits("causal_conv1d_varlen_states"),
    OperationTraits("flash_attn_func", -3, summed=("v", 1)),
    OperationTraits("flash_attn_varlen_func", -3, summed=("v", 0)),
    OperationTraits("flash_attn_with_kvcache", -3, history=("k_cache", "v_cache")),
    OperationTraits("apply_rotary_emb", -3, narrow=("x", "cos", "sin")),
    OperationTraits("layer_norm_fn", narrow=("x",)),
    OperationTraits("rms_norm_fn", narrow=("x",)),
    OperationTraits("rmsnorm_fn", narrow=("x", "z")),
    OperationTraits(
        "fused_recurrent_gated_delta_rule", -3, {"q": -3, "k": -3, "v": -3, "g": -2, "beta": -2},
        history=("initial_state",), narrow=("q", "k", "v"), wide_state=True,
    ),
    OperationTraits(
        "chunk_gated_delta_rule", -3, {"q": -3, "k": -3, "v": -3, "g": -2, "beta": -2},
        history=("initial_state",), wide_state=True,
    ),
)  # fmt: skip


def one_element(call: Call, arguments: Arguments) -> Any:
    """The element in the middle of the output, if there is one, is wrong by the output's root mean square."""

    def change(y: Tensor) -> Tensor:
        if not y.numel():
            return y
        bump = torch.zeros_like(y).flatten()
        bump[bump.numel() // 2] = rms(y)
        return y + bump.view_as(y)

    return with_output(call(**arguments), change)


def unrepeatable() -> Spoil:
    """Make the fault: half of the output, a different half in each call, is off by the last bit, as if the order of a
    sum varied.
    """
    calls = itertools.count()

    def spoil(call: Call, arguments: Arguments) -> Any:
        def change(y: Tensor) -> Tensor:
            # Of its own: that the state of torch's random numbers moves is another fault.
            generator = torch.Generator(y.device).manual_seed(next(calls))
            chosen = torch.randint(2, y.shape, generator=generator, device=y.device)
            return y * (1 + chosen * torch.finfo(y.dtype).eps).to(y.dtype)

        return with_output(call(**arguments), change)

    return spoil


def late(axis: int) -> Spoil:
    """Make the fault: each position gets the output of the position before it."""

    def spoil(call: Call, arguments: Arguments) -> Any:
        return with_output(call(**arguments), lambda y: y.roll(1, axis) if y.dim() > 2 else y)

    return spoil


def tail_missing(axis: int) -> Spoil:
    """Make the fault: the last eighth of the positions of the output, at least one, stays zero."""

    def spoil(call: Call, arguments: Arguments) -> Any:
        def change(y: Tensor) -> Tensor:
            if y.dim() < 3 or not y.numel():
                return y
            length = y.shape[axis]
            end = length - max(1, length // 8)
            return torch.cat([y.narrow(axis, 0, end), torch.zeros_like(y).narrow(axis, end, length - end)], axis)

        return with_output(call(**arguments), change)

    return spoil


def state_lost(traits: OperationTraits) -> Spoil:
    """Make the fault: the second half of a sequence begins without a state.

    For an operation of a single step, the state that is passed in is set to zero.
    """

    def spoil(call: Call, arguments: Arguments) -> Any:
        given = [name for name in traits.history if arguments.get(name) is not None]
        if not traits.times:
            for name in given:
                arguments[name].zero_()
            return call(**arguments)
        (lead, axis), *_ = traits.times.items()
        length = arguments[lead].shape[axis]
        if length < 2 or arguments.get("cu_seqlens") is not None:
            return call(**arguments)
        first = call(**cut_time(arguments, traits.times, 0, length // 2))
        later = {**arguments, **dict.fromkeys(given)}
        second = call(**cut_time(later, traits.times, length // 2, length))
        assert traits.out_time is not None
        y = torch.cat([output_of(first), output_of(second)], traits.out_time)
        return with_output(second, lambda _: y)

    return spoil


def summed_in_bfloat16(traits: OperationTraits) -> Spoil:
    """Make the fault: the output is computed as a sum of parts, and the running sum is kept in bfloat16."""

    def spoil(call: Call, arguments: Arguments) -> Any:
        assert traits.summed is not None
        name, axis = traits.summed
        value = arguments.get(name)
        if value is None:
            return call(**arguments)
        axis = -1 if value.dim() == 2 else axis
        before = {key: arguments[key].clone() for key in traits.history if arguments.get(key) is not None}
        whole = call(**arguments)
        total: Tensor | None = None
        for positions in torch.arange(value.shape[axis], device=value.device).tensor_split(PARTS):
            if len(positions):
                masked = torch.zeros_like(value).index_copy(axis, positions, value.index_select(axis, positions))
                states = {key: state.clone() for key, state in before.items()}
                part = output_of(call(**{**arguments, **states, **_leave_out(arguments, traits.after), name: masked}))
                total = part.to(torch.float32) if total is None else total + part.to(torch.float32)
                total = total.to(torch.bfloat16).to(torch.float32)
        assert total is not None
        y = _apply_after_sum(arguments, traits.after, total).to(output_of(whole).dtype)
        return with_output(whole, lambda _: y)

    return spoil


def _leave_out(arguments: Arguments, after: tuple[str, ...]) -> Arguments:
    """Arguments that leave out what is applied after the sum; D becomes zeros, because some operations require it."""
    given = {name: arguments[name] for name in after if arguments.get(name) is not None}
    return {name: torch.zeros_like(value) if name == "D" else None for name, value in given.items()}


def _apply_after_sum(arguments: Arguments, after: tuple[str, ...], total: Tensor) -> Tensor:
    """Apply to the sum what `_leave_out` left out, in the order of `after`."""
    for name in after:
        value = arguments.get(name)
        if value is None:
            continue
        if name == "D":
            x = arguments.get("u", arguments.get("x"))
            total = total + (value[:, None] if value.dim() == 1 and total.dim() > 2 else value) * x
        elif name == "z":
            total = total * F.silu(value.to(torch.float32))
        elif name == "activation":
            total = F.silu(total)
        else:
            total = total + (value[:, None] if name == "bias" and total.dim() > 2 else value)
    return total


def norm_summed_in_bfloat16(call: Call, arguments: Arguments) -> Any:
    """The sum of the squares is kept in bfloat16."""
    total = arguments["x"].detach().to(torch.float32)
    if arguments.get("residual") is not None:
        total = total + arguments["residual"].detach()
    squares = total.square().to(torch.bfloat16)
    running = squares[..., 0]
    for channel in range(1, squares.shape[-1]):
        running = running + squares[..., channel]
    exact = total.square().sum(-1)
    scale = torch.sqrt(exact / running.to(torch.float32).clamp_min(1e-30))[..., None]
    return with_output(call(**arguments), lambda y: (y * scale).to(y.dtype))


def early_softplus(call: Call, arguments: Arguments) -> Any:
    """A step of more than 3 is taken for its softplus, as it may be from about 20 on."""
    dt, bias = arguments["dt"], arguments["dt_bias"]
    step = dt.detach().to(torch.float32) + bias.detach()
    lower = torch.log(torch.expm1(step.clamp_min(1.0)))
    changed = torch.where(step > 3.0, (lower - bias).to(dt.dtype), dt)
    return call(**({**arguments, "dt": changed} if arguments.get("dt_softplus") else arguments))


def narrow_state(call: Call, arguments: Arguments) -> Any:
    """The state is returned in the dtype of the inputs."""
    result = call(**arguments)
    if not isinstance(result, tuple):
        return result
    # The state that is wide: of several not the first, where that has the dtype of the inputs.
    wide = next((number for number, state in enumerate(result) if state.dtype != result[0].dtype), 1)
    return (*result[:wide], result[wide].to(result[0].dtype), *result[wide + 1 :])


def _make_faults(traits: OperationTraits) -> Iterator[Fault]:
    """The generic faults that make sense for an operation."""
    op = traits.op
    yield Fault(f"one_element-{op}", op, "One element of the output is wrong by the output's rms.", one_element)
    yield Fault(
        f"unrepeatable-{op}",
        op,
        "Half of the output differs by one last bit from call to call.",
        WithMemory(unrepeatable),
    )
    if traits.out_time is not None:
        yield Fault(f"late-{op}", op, "The output comes one position late.", late(traits.out_time))
        yield Fault(
            f"tail_missing-{op}", op, "The last eighth of the positions is left zero.", tail_missing(traits.out_time)
        )
    if traits.times:
        yield Fault(f"state_lost-{op}", op, "The second half of a sequence begins without a state.", state_lost(traits))
    elif traits.history:
        yield Fault(f"state_lost-{op}", op, "The state that is passed in reads as zero.", state_lost(traits))
    if traits.narrow:
        yield Fault(
            f"tf32-{op}", op, "float32 inputs are read with TF32's ten bits of mantissa.",
            with_arguments(traits.narrow, tf32),
        )  # fmt: skip
    if traits.summed:
        yield Fault(f"bf16_sum-{op}", op, "A running sum is kept in bfloat16.", summed_in_bfloat16(traits))
    if op == "rms_norm_fn":
        yield Fault(f"bf16_sum-{op}", op, "The sum of squares is kept in bfloat16.", norm_summed_in_bfloat16)
    if op == "selective_state_update":
        yield Fault(f"early_softplus-{op}", op, "A step of more than 3 is taken for its softplus.", early_softplus)
    if traits.wide_state:
        yield Fault(f"narrow_state-{op}", op, "The float32 state is returned in the inputs' dtype.", narrow_state)


FAULTS: tuple[Fault, ...] = tuple(fault for traits in OPERATIONS for fault in _make_faults(traits))
