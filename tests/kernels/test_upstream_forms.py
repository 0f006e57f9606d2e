"""The references are what mamba-ssm, causal-conv1d and FLA compute in their own Python forms, in float64.

mamba-ssm is where the interpreter is; the forms themselves are plain PyTorch.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from scanproof.plugin.kernel_fixtures import CannotRun, Missing
from tests.support.late import Late

if TYPE_CHECKING:
    import torch
    import torch.nn.functional as F
    from torch import Tensor

    from scanproof.kernels.references import convolution, gated_delta, mamba1, mamba2, mamba3, norms
    from tests.support import oracles
    from tests.support.oracles import Pair
else:
    torch, F, oracles = Late("torch"), Late("torch.nn.functional"), Late("tests.support.oracles")
    convolution, norms = Late("scanproof.kernels.references.convolution"), Late("scanproof.kernels.references.norms")
    mamba3 = Late("scanproof.kernels.references.mamba3")
    mamba1, mamba2 = Late("scanproof.kernels.references.mamba1"), Late("scanproof.kernels.references.mamba2")
    gated_delta = Late("scanproof.kernels.references.gated_delta")

INTERFACE = "mamba_ssm.ops.selective_scan_interface"
CONVOLUTION = "causal_conv1d.causal_conv1d_interface"
SHAPES = {"constant": (6, 4), "shared": (2, 4, 9), "grouped": (2, 2, 4, 9)}


FLA, DELTA = "fla.ops.simple_gla.naive", "fla.ops.gated_delta_rule.naive"
OWNERS = {
    CONVOLUTION: "causal-conv1d", "causal_conv1d.causal_conv1d_varlen": "causal-conv1d", FLA: "fla-core",
    DELTA: "fla-core",
}  # fmt: skip
"""Module -> its distribution, where that is not mamba-ssm."""


def form(module: str, name: str) -> Any:
    return oracles.find_form(OWNERS.get(module, "mamba-ssm"), module, name)


def scan(B: str, C: str) -> Pair:
    """b 2, d 6, l 9, n 4, g 2; B and C in the form of these names."""
    draw = oracles.draw
    arguments = {
        "u": draw(2, 6, 9), "delta": draw(2, 6, 9, seed=1), "A": oracles.draw_decay(6, 4), "B": draw(*SHAPES[B]),
        "C": draw(*SHAPES[C], seed=1), "D": draw(6), "z": draw(2, 6, 9, seed=2), "delta_bias": draw(6, seed=1),
        "delta_softplus": True, "return_last_state": True,
    }  # fmt: skip
    return oracles.Pair(mamba1.selective_scan_fn, form(INTERFACE, "selective_scan_ref"), arguments)


def complex_scan(B: str, C: str) -> Pair:
    """As `scan`, with a complex A; what varies in time has real and imaginary parts in turns."""
    pair, draw = scan(B, C), oracles.draw
    parts = {
        name: torch.complex(draw(6, 4, seed=3), draw(6, 4, seed=4))
        if kind == "constant"
        else draw(*SHAPES[kind][:-1], 18, seed=5)
        for name, kind in (("B", B), ("C", C))
    }
    A = torch.complex(oracles.draw_decay(6, 4), 3 * draw(6, 4, seed=2))
    return oracles.Pair(pair.reference, pair.form, {**pair.arguments, "A": A, **parts})


def step(heads: bool) -> Pair:
    draw, lead, groups = oracles.draw, (4,) if heads else (), (2,) if heads else ()
    arguments = {
        "state": draw(2, *lead, 3, 5), "x": draw(2, *lead, 3), "dt": draw(2, *lead, 3, seed=1),
        "A": oracles.draw_decay(*lead, 3, 5), "B": draw(2, *groups, 5), "C": draw(2, *groups, 5, seed=1),
        "D": draw(*lead, 3), "z": draw(2, *lead, 3, seed=2), "dt_bias": draw(*lead, 3, seed=1), "dt_softplus": True,
    }  # fmt: skip
    plain = form("mamba_ssm.ops.triton.selective_state_update", "selective_state_update_ref")
    return oracles.Pair(
        mamba1.selective_state_update, lambda **a: (plain(**a), a["state"]), arguments, differentiable=False
    )


def duality(chunk_size: int, **more: Any) -> Pair:
    """b 2, l 24, h 4, p 3, g 2, n 5, against the listing of the paper."""
    draw = oracles.draw
    arguments = {
        "x": draw(2, 24, 4, 3), "dt": F.softplus(draw(2, 24, 4)), "A": oracles.draw_decay(4), "B": draw(2, 24, 2, 5),
        "C": draw(2, 24, 2, 5, seed=1), "chunk_size": chunk_size, "return_final_states": True, **more,
    }  # fmt: skip
    minimal = form("mamba_ssm.modules.ssd_minimal", "ssd_minimal_discrete")

    def call(
        x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, initial_states: Tensor | None = None, **rest: Any
    ) -> Any:
        B, C = (part.repeat_interleave(2, dim=2) for part in (B, C))
        before = None if initial_states is None else initial_states[:, None]
        return minimal(x * dt[..., None], A * dt, B, C, chunk_size, before)

    return oracles.Pair(mamba2.mamba_chunk_scan_combined, call, arguments)


def combined() -> Pair:
    """With D, z, bias and softplus, in whole chunks, against the operation's own form."""
    draw = oracles.draw
    arguments = {
        "x": draw(2, 24, 4, 3), "dt": draw(2, 24, 4), "A": oracles.draw_decay(4), "B": draw(2, 24, 2, 5),
        "C": draw(2, 24, 2, 5, seed=1), "chunk_size": 8, "D": draw(4, 3), "z": draw(2, 24, 4, 3, seed=1),
        "dt_bias": draw(4, seed=1), "dt_softplus": True,
    }  # fmt: skip
    plain = form("mamba_ssm.ops.triton.ssd_combined", "ssd_chunk_scan_combined_ref")
    return oracles.Pair(mamba2.mamba_chunk_scan_combined, plain, arguments)


def states_of_packed() -> Pair:
    """Of sequences shorter and longer than the state; upstream's form takes no empty one."""
    arguments = {"x": oracles.draw(12, 3), "cu_seqlens": torch.tensor([0, 1, 4, 12]), "state_len": 4}
    plain = form("causal_conv1d.causal_conv1d_varlen", "causal_conv1d_varlen_states_ref")
    return oracles.Pair(convolution.causal_conv1d_varlen_states, plain, arguments, differentiable=False)


def turned(angles: int) -> Pair:
    """Angle and k after a step of Mamba-3, against upstream's form of biases and rotation; of the step it has no other.

    b 2, h 4, p 3, n 6, with angles that stay within one turn, because the form does not take whole turns off.
    """
    draw = oracles.draw
    arguments = {
        "Q": draw(2, 4, 6), "K": draw(2, 4, 6, seed=1), "DT": draw(2, 4).exp() / 50, "Q_bias": draw(4, 6),
        "K_bias": draw(4, 6, seed=1), "Angles": draw(2, 4, angles), "Input_Angle_State": 3 + draw(2, 4, angles) / 5,
    }  # fmt: skip
    rotate = form("mamba_ssm.ops.triton.mamba3.mamba3_mimo_rotary_step", "apply_rotary_qk_inference_reference")

    def ours(**given: Any) -> tuple[Tensor, ...]:
        """q is read from the output, as that of a state in which v of each channel picks a channel of k."""
        state, v = torch.eye(6, dtype=torch.float64).expand(2, 4, 6, 6), torch.zeros(2, 4, 6, dtype=torch.float64)
        decay = torch.zeros(2, 4, dtype=torch.float64)
        y, angle, _, k, _ = mamba3.mamba3_siso_step(
            V=v, ADT=decay, Trap=decay, Input_SSM_State=state, Input_K_State=v, Input_V_State=v, **given
        )
        return y, k, angle

    def theirs(
        Q: Tensor, K: Tensor, DT: Tensor, Q_bias: Tensor, K_bias: Tensor, Angles: Tensor, Input_Angle_State: Tensor
    ) -> tuple[Tensor, ...]:
        q, k, angle = rotate(Q[:, None], K[:, None], Input_Angle_State, Angles, DT, Q_bias[None], K_bias[None])
        return q[:, 0], k[:, 0], angle

    return oracles.Pair(ours, theirs, arguments)


def gated_attention(name: str, **options: Any) -> Pair:
    """FLA's forms of gated linear attention with a decay for each head, which is the duality under other names."""
    draw = oracles.draw
    arguments = {
        "x": draw(2, 21, 4, 3), "dt": F.softplus(draw(2, 21, 4)), "A": oracles.draw_decay(4), "B": draw(2, 21, 4, 5),
        "C": draw(2, 21, 4, 5, seed=1), "chunk_size": 8, "initial_states": draw(2, 4, 3, 5),
        "return_final_states": True,
    }  # fmt: skip
    naive = form(FLA, name)

    def call(x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, initial_states: Tensor, **rest: Any) -> Any:
        state = initial_states.mT
        o, last = naive(
            C, B, x * dt[..., None], A * dt, scale=1.0, initial_state=state, output_final_state=True, **options
        )
        return o, last.mT

    return oracles.Pair(mamba2.mamba_chunk_scan_combined, call, arguments)


def delta(reference: str, name: str, **options: Any) -> Pair:
    """FLA's forms of the gated delta rule, which take as many heads of q and k as of v: b 2, l 21, h 3, n 5, p 4."""
    draw = oracles.draw
    arguments = {
        "q": draw(2, 21, 3, 5), "k": F.normalize(draw(2, 21, 3, 5, seed=1), dim=-1), "v": draw(2, 21, 3, 4),
        "g": oracles.draw_decay(2, 21, 3), "beta": torch.sigmoid(draw(2, 21, 3)), "scale": 0.7,
        "initial_state": draw(2, 3, 5, 4), "output_final_state": True,
    }  # fmt: skip
    naive = form(DELTA, name)
    return oracles.Pair(getattr(gated_delta, reference), lambda **a: naive(**a, **options), arguments)


def norm(reference: Callable[..., Any], name: str, bias: bool) -> Pair:
    draw = oracles.draw
    arguments = {
        "x": draw(2, 3, 12), "weight": draw(12), "bias": draw(12, seed=1) if bias else None,
        "residual": draw(2, 3, 12, seed=1), "eps": 1e-5, "prenorm": True,
    }  # fmt: skip
    return oracles.Pair(reference, form("mamba_ssm.ops.triton.layer_norm", name), arguments)


def gated_norm(group_size: int | None, norm_before_gate: bool) -> Pair:
    draw = oracles.draw
    arguments = {
        "x": draw(2, 3, 12), "weight": draw(12), "bias": draw(12, seed=1), "z": draw(2, 3, 12, seed=1), "eps": 1e-5,
        "group_size": group_size, "norm_before_gate": norm_before_gate,
    }  # fmt: skip
    plain = form("mamba_ssm.ops.triton.layernorm_gated", "rms_norm_ref")
    return oracles.Pair(norms.rmsnorm_fn, plain, arguments)


def convolved(bias: bool) -> Pair:
    draw = oracles.draw
    arguments = {
        "x": draw(2, 6, 9), "weight": draw(6, 4), "bias": draw(6) if bias else None, "initial_states": draw(2, 6, 3),
        "return_final_states": True, "activation": "silu" if bias else None,
    }  # fmt: skip
    return oracles.Pair(convolution.causal_conv1d_fn, form(CONVOLUTION, "causal_conv1d_ref"), arguments)


def convolved_packed() -> Pair:
    """Rows with boundaries of their own; the second ends in padding."""
    seq_idx = torch.tensor([[0, 0, 0, 0, 1, 1, 2, 2, 2], [0, 1, 1, 1, 1, 1, 1, -1, -1]], dtype=torch.int32)
    pair = convolved(bias=True)
    others = {name: value for name, value in pair.arguments.items() if "states" not in name}
    return oracles.Pair(pair.reference, pair.form, {**others, "seq_idx": seq_idx})


def convolved_on(new: int, seen: list[int] | None) -> Pair:
    """`new` inputs after a state of five; after `seen` inputs it is a ring."""
    draw = oracles.draw
    arguments = {
        "x": draw(2, 6, new), "conv_state": draw(2, 6, 5), "weight": draw(6, 4), "bias": draw(6), "activation": "silu",
        "cache_seqlens": None if seen is None else torch.tensor(seen, dtype=torch.int32),
    }  # fmt: skip
    plain = form(CONVOLUTION, "causal_conv1d_update_ref")
    return oracles.Pair(
        convolution.causal_conv1d_update, lambda **a: (plain(**a), a["conv_state"]), arguments, differentiable=False
    )


KINDS = [(B, C) for B in SHAPES for C in SHAPES]
PAIRS: dict[str, Callable[[], Pair]] = {
    **{f"selective_scan_fn, {B} B, {C} C": partial(scan, B, C) for B, C in KINDS},
    **{f"selective_scan_fn, complex, {B} B, {C} C": partial(complex_scan, B, C) for B, C in KINDS},
    "selective_state_update, Mamba-1": lambda: step(heads=False),
    "selective_state_update, Mamba-2": lambda: step(heads=True),
    "mamba_chunk_scan_combined, chunks of 6": lambda: duality(6),
    "mamba_chunk_scan_combined, chunks of 8, with initial states": lambda: duality(
        8, initial_states=oracles.draw(2, 4, 3, 5)
    ),
    "mamba_chunk_scan_combined, one chunk": lambda: duality(24),
    "mamba_chunk_scan_combined, D and z": combined,
    "mamba_chunk_scan_combined, FLA's recurrence": lambda: gated_attention("naive_recurrent_simple_gla"),
    "mamba_chunk_scan_combined, FLA's chunks": lambda: gated_attention("naive_chunk_simple_gla", chunk_size=8),
    "mamba3_siso_step, rotation of some channels": lambda: turned(2),
    "mamba3_siso_step, rotation of all channels": lambda: turned(3),
    "chunk_gated_delta_rule": lambda: delta("chunk_gated_delta_rule", "naive_chunk_gated_delta_rule", chunk_size=8),
    "fused_recurrent_gated_delta_rule": lambda: delta(
        "fused_recurrent_gated_delta_rule", "naive_recurrent_gated_delta_rule"
    ),
    "layer_norm_fn": lambda: norm(norms.layer_norm_fn, "layer_norm_ref", bias=True),
    "rms_norm_fn": lambda: norm(norms.rms_norm_fn, "rms_norm_ref", bias=False),
    "rmsnorm_fn, gate first": lambda: gated_norm(None, norm_before_gate=False),
    "rmsnorm_fn, gate last": lambda: gated_norm(None, norm_before_gate=True),
    "rmsnorm_fn, groups, gate first": lambda: gated_norm(4, norm_before_gate=False),
    "rmsnorm_fn, groups, gate last": lambda: gated_norm(4, norm_before_gate=True),
    "causal_conv1d_fn, bias and silu": lambda: convolved(bias=True),
    "causal_conv1d_fn, neither": lambda: convolved(bias=False),
    "causal_conv1d_fn, packed": convolved_packed,
    "causal_conv1d_varlen_states": states_of_packed,
    "causal_conv1d_update": lambda: convolved_on(2, None),
    "causal_conv1d_update, a ring": lambda: convolved_on(2, [1, 9]),
}


@pytest.mark.interpreted
@pytest.mark.parametrize("name", PAIRS)
def test_the_reference_is_what_upstream_computes(
    name: str,
    scanproof_interpreter: str | None,
    scanproof_missing: Missing,
    scanproof_cannot_run: CannotRun,
    record_property: Callable[[str, object], None],
) -> None:
    if scanproof_interpreter is not None:
        scanproof_missing(scanproof_interpreter)
    try:
        pair = PAIRS[name]()
    except oracles.NoForm as error:
        scanproof_cannot_run(str(error))
    differences = oracles.find_differences(pair)
    record_property("largest difference", max(differences.values()))
    assert {what: size for what, size in differences.items() if size > oracles.EQUAL} == {}
    assert oracles.find_unseen(pair) == []
