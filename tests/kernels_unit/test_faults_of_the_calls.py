"""Rows that call an operation as models do, or in a rarer combination, see what the plainer rows let pass.

Each fault is planted into a correct implementation; the same implementation without it meets the criterion.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

from scanproof.kernels import cases
from tests.support.late import Late
from tests.support.rotation_faults import (
    cache_of_unrotated_keys,
    queries_not_rotated,
    queries_rotated_in_order,
    rotated_backwards,
    rotated_one_position_late,
    rotated_with_the_other_pairs,
)

if TYPE_CHECKING:
    import torch

    from scanproof.faults import correct
    from scanproof.kernels import compare, operation_table
else:
    torch, correct = Late("torch"), Late("scanproof.faults.correct")
    compare, operation_table = Late("scanproof.kernels.compare"), Late("scanproof.kernels.operation_table")

Call = Callable[..., Any]
Spoil = Callable[[Call, dict[str, Any]], Any]
ALL = {case.id: case for case in cases.load()}


def outcome(case_id: str, spoil: Spoil) -> str:
    """What the comparison says of a correct implementation whose call goes through `spoil`; empty: it passes."""
    case = ALL[case_id]
    op = operation_table.find_operation(case.op)
    call = correct.make_correct(op, seed=1)
    return compare.describe_failures(case, compare.compare_case(op, case, lambda **given: spoil(call, given)))


def residual_rounded(call: Call, given: dict[str, Any]) -> Any:
    """The sum is rounded to the dtype of x before it is stored in float32."""
    y, total = call(**given)
    return y, total + (total.to(given["x"].dtype).float() - total).detach()


def residual_gradient_dropped(call: Call, given: dict[str, Any]) -> Any:
    """The gradient that comes through the residual of the next block is lost."""
    y, total = call(**given)
    return y, total.detach() + 0 * total


def residual_gradient_rounded(call: Call, given: dict[str, Any]) -> Any:
    """The gradient of a residual in float32 is rounded to the dtype of x."""
    given = dict(given)
    residual = given["residual"]
    given["residual"] = residual + 0
    given["residual"].register_hook(lambda gradient: gradient.to(given["x"].dtype).float())
    return call(**given)


def first_rows_sequences(call: Call, given: dict[str, Any]) -> Any:
    """All rows are cut into the first row's sequences."""
    return call(**{**given, "seq_idx": given["seq_idx"][:1].expand_as(given["seq_idx"])})


def initial_gradient_lost(call: Call, given: dict[str, Any]) -> Any:
    """The gradient of the initial states of packed rows is zero."""
    return call(**{**given, "initial_states": given["initial_states"].detach() + 0 * given["initial_states"]})


def first_group(call: Call, given: dict[str, Any]) -> Any:
    """Packed rows take the first group's B for all heads."""
    return call(**{**given, "B": given["B"][:, :, :1].expand_as(given["B"])})


def no_gate(call: Call, given: dict[str, Any]) -> Any:
    """Packed rows are not gated."""
    return call(**{**given, "z": torch.full_like(given["z"], 1.2785) + 0 * given["z"]})


def overflowing_softplus(call: Call, given: dict[str, Any]) -> Any:
    """Softplus is log(1 + exp(x)) of any x, which is infinite past 89."""
    name = "dt" if "dt" in given else "delta"
    steps = torch.log(1 + torch.exp(given[name].float())).to(given[name].dtype)
    bias = {"dt_bias": torch.zeros_like(given["dt_bias"])} if "dt_bias" in given else {}
    return call(**{**given, name: steps, **bias, f"{name}_softplus": False})


def no_gradient_of_large_steps(call: Call, given: dict[str, Any]) -> Any:
    """Past 20, where softplus is left out, its gradient is as well."""
    name = "dt" if "dt" in given else "delta"
    steps = given[name]
    return call(**{**given, name: torch.where(steps > 20, steps.detach(), steps)})


def no_gradient_of_fast_decay(call: Call, given: dict[str, Any]) -> Any:
    """Where A is below -500 its gradient is zero."""
    A = given["A"]
    return call(**{**given, "A": torch.where(A < -500, A.detach(), A)})


def state_rounded_between_chunks(call: Call, given: dict[str, Any]) -> Any:
    """The state goes from chunk to chunk in the dtype of the inputs."""
    chunk, dtype = given["chunk_size"], given["x"].dtype
    state: Any = None
    outputs = []
    parts = zip(*(torch.split(given[name], chunk, 1) for name in ("x", "dt", "B", "C")), strict=True)
    for x, dt, B, C in parts:
        y, state = call(**{**given, "x": x, "dt": dt, "B": B, "C": C, "initial_states": state})
        state = state.to(dtype)
        outputs.append(y)
    return torch.cat(outputs, dim=1), state.float()


def state_rounded(call: Call, given: dict[str, Any]) -> Any:
    """A state in float32 is rounded to the dtype of x when it is written."""
    y = call(**given)
    given["state"].copy_(given["state"].to(given["x"].dtype))
    return y


def gate_of_the_row_of_the_state(call: Call, given: dict[str, Any]) -> Any:
    """The gate is read at the state's row number, as far as there is one."""
    rows = given["state_batch_indices"].long() % len(given["x"])
    return call(**{**given, "z": given["z"][rows]})


def rows_in_order(call: Call, given: dict[str, Any]) -> Any:
    """The indices of states are ignored."""
    rows = torch.arange(len(given["x"]), dtype=torch.int32)
    return call(**{**given, "state_batch_indices": rows})


def group_of_the_first_head(call: Call, given: dict[str, Any]) -> Any:
    """All heads take the first group's B."""
    return call(**{**given, "B": given["B"][:, :1].expand_as(given["B"])})


def no_gradient_of_the_bias(call: Call, given: dict[str, Any]) -> Any:
    """A bias of the step sizes in the model's dtype has no gradient."""
    return call(**{**given, "dt_bias": given["dt_bias"].detach() + 0 * given["dt_bias"]})


def bias_doubled(call: Call, given: dict[str, Any]) -> Any:
    """The bias of the step sizes is added twice."""
    return call(**{**given, "dt_bias": 2 * given["dt_bias"]})


def states_to_a_power_of_two(call: Call, given: dict[str, Any]) -> Any:
    """States past the last power of two are left out."""
    states = given["B"].shape[-1]
    kept = torch.arange(states) < 2 ** (states.bit_length() - 1)
    return call(**{**given, "B": given["B"] * kept})


def chunk_to_a_power_of_two(call: Call, given: dict[str, Any]) -> Any:
    """Positions of a chunk past a power of two do not enter its state."""
    chunk = given["chunk_size"]
    kept = torch.arange(given["x"].shape[1]) % chunk < 2 ** (chunk.bit_length() - 1)
    (y, _), (later, last) = call(**given), call(**{**given, "x": given["x"] * kept[:, None, None]})
    return torch.cat([y[:, :chunk], later[:, chunk:]], dim=1), last


def no_ceiling(call: Call, given: dict[str, Any]) -> Any:
    """Steps have no upper limit."""
    return call(**{**given, "dt_limit": (given["dt_limit"][0], float("inf"))})


def gate_before_norm(call: Call, given: dict[str, Any]) -> Any:
    """The gate comes before the norm."""
    return call(**{**given, "norm_before_gate": False})


def one_skip_per_head(call: Call, given: dict[str, Any]) -> Any:
    """Every channel of a head has the first one's D."""
    return call(**{**given, "D": given["D"][:, :1].expand_as(given["D"])})


def mlp_channels(given: dict[str, Any]) -> int:
    """How many channels an MLP has beside the scan."""
    heads, inner = len(given["A"]), len(given["A"]) * int(given["headdim"])
    return (int(given["zxbcdt"].shape[-1]) - inner - len(given["conv1d_weight"]) - heads) // 2


def mlp_gate_and_value_swapped(call: Call, given: dict[str, Any]) -> Any:
    """The value of the MLP is gated by silu of itself, and not of the gate: the halves are swapped."""
    gate, value, rest = torch.tensor_split(given["zxbcdt"], [mlp_channels(given), 2 * mlp_channels(given)], dim=-1)
    return call(**{**given, "zxbcdt": torch.cat([value, gate, rest], dim=-1)})


def mlp_gradient_lost(call: Call, given: dict[str, Any]) -> Any:
    """The gradient of the MLP's gate is zero."""
    gate, rest = torch.tensor_split(given["zxbcdt"], [mlp_channels(given)], dim=-1)
    return call(**{**given, "zxbcdt": torch.cat([gate.detach() + 0 * gate, rest], dim=-1)})


def mlp_last(call: Call, given: dict[str, Any]) -> Any:
    """The channels of the MLP come after those of the scan."""
    y, *states = call(**given)
    return (torch.roll(y, -mlp_channels(given), dims=-1), *states)


def one_sequence(call: Call, given: dict[str, Any]) -> Any:
    """The packed sequences are one."""
    return call(**{**given, "seq_idx": torch.zeros_like(given["seq_idx"])})


def aligned_with_the_first_key(call: Call, given: dict[str, Any]) -> Any:
    """The causal mask is aligned with the first key: later keys are cut off where there are more than queries."""
    queries, keys = (torch.diff(given[name]).tolist() for name in ("cu_seqlens_q", "cu_seqlens_k"))
    seen = [min(pair) for pair in zip(queries, keys, strict=True)]
    kept = [(int(start), n) for start, n in zip(given["cu_seqlens_k"], seen, strict=False)]
    cut = {name: torch.cat([given[name][start : start + n] for start, n in kept]) for name in ("k", "v")}
    ends = torch.tensor([0, *torch.tensor(seen).cumsum(0).tolist()], dtype=torch.int32)
    return call(**{**given, **cut, "cu_seqlens_k": ends})


def state_of_the_sequence_before(call: Call, given: dict[str, Any]) -> Any:
    """An empty sequence has the last state of the sequence before it."""
    y, final, states = call(**given)
    kept = torch.diff(given["cu_seqlens"]).ne(0).cumsum(0) - 1
    full = states[torch.diff(given["cu_seqlens"]).ne(0)]
    return y, final, full[kept.clamp(min=0)]


def softplus_anyway(call: Call, given: dict[str, Any]) -> Any:
    """Steps go through a softplus, whatever is asked for."""
    name = "dt_softplus" if "dt_bias" in given else "delta_softplus"
    return call(**{**given, name: True})


def bias_of_steps_left_out(call: Call, given: dict[str, Any]) -> Any:
    """Without a softplus the bias of the step sizes is not added."""
    name = "dt_bias" if "dt_bias" in given else "delta_bias"
    return call(**{**given, name: 0 * given[name]})


def biases_of_the_projection_swapped(call: Call, given: dict[str, Any]) -> Any:
    """The biases of B and C are each other's."""
    return call(**{**given, "B_proj_bias": given["C_proj_bias"], "C_proj_bias": given["B_proj_bias"]})


def no_gradient_of_the_projection_bias(call: Call, given: dict[str, Any]) -> Any:
    """The bias of B has no gradient."""
    return call(**{**given, "B_proj_bias": given["B_proj_bias"].detach() + 0 * given["B_proj_bias"]})


def norm_left_out(name: str) -> Spoil:
    """One of the inner function's norms is left out."""

    def left_out(call: Call, given: dict[str, Any]) -> Any:
        return call(**{**given, name: None})

    left_out.__name__ = f"no_{name}"
    return left_out


def norm_weights_of_one(call: Call, given: dict[str, Any]) -> Any:
    """The weights of the norms are not multiplied in."""
    names = ("b_rms_weight", "c_rms_weight", "dt_rms_weight")
    return call(**{**given, **{name: torch.ones_like(given[name]) for name in names}})


def eps_of_the_norms_ignored(call: Call, given: dict[str, Any]) -> Any:
    """The norms of dt, B and C have the default eps."""
    return call(**{**given, "b_c_dt_rms_eps": 1e-6})


NORMS = ("b_rms_weight", "c_rms_weight", "dt_rms_weight")
FAULTS: list[tuple[str, Spoil]] = [
    ("layer_norm_fn-block-d64-bfloat16", residual_rounded),
    ("layer_norm_fn-block-d64-bfloat16", residual_gradient_dropped),
    ("layer_norm_fn-block-d64-bfloat16", residual_gradient_rounded),
    ("layer_norm_fn-first_block-d64-bfloat16", residual_gradient_dropped),
    ("rms_norm_fn-residual_in_fp32-d64-float16", residual_rounded),
    ("rms_norm_fn-first_in_fp32-float16", residual_gradient_dropped),
    ("mamba_chunk_scan_combined-rows_apart-bfloat16", first_rows_sequences),
    ("mamba_chunk_scan_combined-rows_apart-bfloat16", no_gate),
    ("mamba_chunk_scan_combined-rows_apart_initial-bfloat16", first_rows_sequences),
    ("mamba_chunk_scan_combined-rows_apart_initial-bfloat16", initial_gradient_lost),
    ("mamba_chunk_scan_combined-rows_apart_initial-bfloat16", first_group),
    ("mamba_split_conv1d_scan_combined-rows_apart-bfloat16", first_rows_sequences),
    ("causal_conv1d_fn-rows_apart-bfloat16", first_rows_sequences),
    ("mamba_chunk_scan_combined-overflowing_steps-bfloat16", overflowing_softplus),
    ("selective_state_update-overflowing_steps-float16", overflowing_softplus),
    ("selective_scan_fn-overflowing_steps-bfloat16", overflowing_softplus),
    ("mamba_chunk_scan_combined-fast_decay_gradients-bfloat16", no_gradient_of_fast_decay),
    ("selective_scan_fn-fast_decay_gradients-bfloat16", no_gradient_of_fast_decay),
    ("mamba_chunk_scan_combined-saturating_gradients-bfloat16", no_gradient_of_large_steps),
    ("selective_scan_fn-saturating_gradients-bfloat16", no_gradient_of_large_steps),
    ("mamba_chunk_scan_combined-slow_decay_long-bfloat16", state_rounded_between_chunks),
    ("selective_state_update-float32_state-bfloat16", state_rounded),
    ("selective_state_update-mamba1_float32_state-float16", state_rounded),
    ("selective_state_update-indices_groups-bfloat16", group_of_the_first_head),
    ("selective_state_update-indices_groups-bfloat16", gate_of_the_row_of_the_state),
    ("selective_state_update-padding_groups-bfloat16", gate_of_the_row_of_the_state),
    ("selective_state_update-mamba1_indices-bfloat16", rows_in_order),
    ("selective_state_update-model_dtype-bfloat16", bias_doubled),
    ("selective_state_update-dstate_odd-n100-bfloat16", states_to_a_power_of_two),
    ("mamba_chunk_scan_combined-dstate_odd-bfloat16", states_to_a_power_of_two),
    ("mamba_chunk_scan_combined-chunk_odd-bfloat16", chunk_to_a_power_of_two),
    ("mamba_chunk_scan_combined-model_dtype-bfloat16", no_gradient_of_the_bias),
    ("mamba_split_conv1d_scan_combined-model_dtype-bfloat16", no_gradient_of_the_bias),
    ("mamba_split_conv1d_scan_combined-limits-bfloat16", no_ceiling),
    ("mamba_split_conv1d_scan_combined-norm_first-bfloat16", gate_before_norm),
    ("mamba_split_conv1d_scan_combined-norm_first-bfloat16", one_skip_per_head),
    ("mamba_split_conv1d_scan_combined-norm_first-bfloat16", one_sequence),
    ("mamba_split_conv1d_scan_combined-no_norm-bfloat16", one_sequence),
    *(
        (f"{op}-bfloat16", spoil)
        for op in (
            "selective_scan_fn-no_softplus",
            "mamba_inner_fn-no_softplus",
            "mamba_chunk_scan_combined-no_softplus",
            "selective_state_update-steps_tied",
            "selective_state_update-mamba1_steps",
        )
        for spoil in (softplus_anyway, bias_of_steps_left_out)
    ),
    ("mamba_inner_fn-projection_biases-bfloat16", biases_of_the_projection_swapped),
    ("mamba_inner_fn-projection_biases-bfloat16", no_gradient_of_the_projection_bias),
    *(("mamba_inner_fn-norms-l65-bfloat16", norm_left_out(name)) for name in NORMS),
    ("mamba_inner_fn-norms-l65-bfloat16", norm_weights_of_one),
    ("mamba_inner_fn-norms_and_biases-bfloat16", biases_of_the_projection_swapped),
    ("mamba_inner_fn-norms_and_biases-bfloat16", eps_of_the_norms_ignored),
    *(
        (f"flash_attn_with_kvcache-{row}-bfloat16", spoil)
        for row in ("rotary-l1", "rotary-l5", "rotary_interleaved-l5", "rotary_window")
        for spoil in (
            rotated_with_the_other_pairs,
            rotated_one_position_late,
            rotated_backwards,
            queries_not_rotated,
            cache_of_unrotated_keys,
        )
    ),
    ("flash_attn_with_kvcache-rotary_full-bfloat16", queries_rotated_in_order),
    ("mamba_split_conv1d_scan_combined-mlp-bfloat16", mlp_gate_and_value_swapped),
    ("mamba_split_conv1d_scan_combined-mlp-bfloat16", mlp_gradient_lost),
    ("mamba_split_conv1d_scan_combined-mlp_no_norm-bfloat16", mlp_gate_and_value_swapped),
    ("mamba_split_conv1d_scan_combined-mlp_edge-f33-l33-bfloat16", mlp_last),
    ("flash_attn_varlen_func-unequal-bfloat16", aligned_with_the_first_key),
    ("mamba_chunk_scan_combined-empty_sequences-bfloat16", state_of_the_sequence_before),
]


@pytest.mark.parametrize("case_id", sorted({case_id for case_id, _ in FAULTS}))
def test_a_correct_implementation_passes(case_id: str) -> None:
    assert outcome(case_id, lambda call, given: call(**given)) == ""


@pytest.mark.parametrize(("case_id", "spoil"), FAULTS, ids=[f"{name}-{spoil.__name__}" for name, spoil in FAULTS])
def test_the_row_sees_the_fault(case_id: str, spoil: Spoil) -> None:
    assert outcome(case_id, spoil).startswith(f"{case_id}: ")
