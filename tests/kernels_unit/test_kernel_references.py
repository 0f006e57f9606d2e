"""The references agree with each other, with PyTorch's own functions, and with finite differences."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scanproof.kernels import cases
from tests.support.exact import close
from tests.support.late import Late
from tests.support.ssd_inputs import random, ssd_arguments

if TYPE_CHECKING:
    import torch
    import torch.nn.functional as F
    from torch import Tensor

    from scanproof.kernels import compare, operation_table
    from scanproof.kernels.references import attention, convolution, mamba1, mamba2, norms, papers, precision
    from tests.support import quadratic_ssd
else:
    torch, F = Late("torch"), Late("torch.nn.functional")
    attention, convolution = (
        Late("scanproof.kernels.references.attention"),
        Late("scanproof.kernels.references.convolution"),
    )
    mamba1, mamba2 = Late("scanproof.kernels.references.mamba1"), Late("scanproof.kernels.references.mamba2")
    norms, operation_table = Late("scanproof.kernels.references.norms"), Late("scanproof.kernels.operation_table")
    precision, papers = Late("scanproof.kernels.references.precision"), Late("scanproof.kernels.references.papers")
    compare, quadratic_ssd = Late("scanproof.kernels.compare"), Late("tests.support.quadratic_ssd")

SMALL = {"b": 2, "l": 4, "d": 4, "n": 3, "h": 2, "p": 3, "g": 1, "w": 3, "r": 2, "m": 4, "q": 2, "k": 1, "s": 4}
MAMBA3 = {"b": 2, "l": 4, "h": 2, "p": 3, "g": 1, "n": 6, "a": 2}
MAMBA3_STATES = {
    "Input_Angle_State": "h a", "Input_SSM_State": "h p n", "Input_K_State": "h n", "Input_V_State": "h p",
}  # fmt: skip
FIRST = {case.op: case for case in reversed(cases.load())}


def small_case(op: str, **changes: Any) -> cases.KernelCase:
    """The first case of an operation, at sizes that are small enough for finite differences."""
    first = FIRST[op]
    small = {"chunk_size": 2, "headdim": SMALL["p"]}
    options = {key: small.get(key, value) for key, value in first.options.items()}
    sizes = {letter: SMALL.get(letter, size) for letter, size in first.sizes.items()}
    return replace(first, **{"sizes": sizes, "options": options, "segments": (), "dtype": "float32", **changes})


DIFFERENTIABLE = [
    ("selective_scan_fn", {"given": frozenset({"D", "z", "delta_bias"})}),
    (
        "selective_scan_fn",
        {
            "given": frozenset({"D", "z", "delta_bias"}),
            "axes": {"B": "b g n 2l", "C": "b g n 2l"},
            "types": {"A": "complex64", "last_state": "complex64"},
        },
    ),
    (
        "selective_scan_fn",
        {
            "axes": {"B": "d n", "C": "d n"},
            "types": {"A": "complex64", "B": "complex64", "C": "complex64", "last_state": "complex64"},
        },
    ),
    ("mamba_inner_fn", {"axes": {"out_proj_bias": "m"}, "values": {"out_proj_bias": "normal"}}),
    (
        "mamba_inner_fn",
        {
            "given": frozenset({"B_proj_bias", "C_proj_bias", "b_rms_weight", "c_rms_weight", "dt_rms_weight"}),
            "options": {"b_c_dt_rms_eps": 0.1, "delta_softplus": False},
            "values": {"A": "decay_slow"},
        },
    ),
    ("mamba_chunk_scan_combined", {"given": frozenset({"D", "z", "dt_bias", "initial_states"})}),
    ("mamba_chunk_scan_combined", {"given": frozenset({"seq_idx", "dt_bias", "initial_states"}), "segments": (1, 3)}),
    (
        "mamba_chunk_scan_combined",
        {"given": frozenset({"seq_idx", "z", "initial_states"}), "segments_of_rows": ((1, 3), (2, 2))},
    ),
    ("mamba_split_conv1d_scan_combined", {"given": frozenset({"rmsnorm_weight", "initial_states"})}),
    ("causal_conv1d_fn", {"given": frozenset({"bias", "initial_states"}), "options": {"return_final_states": True}}),
    ("causal_conv1d_fn", {"given": frozenset({"bias", "seq_idx"}), "segments": (1, 3)}),
    ("causal_conv1d_fn", {"given": frozenset({"bias", "seq_idx"}), "segments_of_rows": ((1, 3), (2, 2))}),
    ("causal_conv1d_fn", {"given": frozenset({"seq_idx", "initial_states"}), "segments_of_rows": ((1, 3), (2, 2))}),
    ("flash_attn_func", {"sizes": {"b": 1, "l": 4, "m": 2, "q": 2, "k": 1, "p": 3}}),
    ("flash_attn_varlen_func", {"segments": (1, 3)}),
    (
        "flash_attn_varlen_func",
        {
            "sizes": {"l": 4, "m": 5, "q": 2, "k": 1, "p": 3},
            "axes": {"k": "m k p", "v": "m k p"},
            "segments": (1, 3),
            "key_segments": (3, 2),
        },
    ),
    (
        "mamba_split_conv1d_scan_combined",
        {
            "given": frozenset({"rmsnorm_weight", "seq_idx"}),
            "axes": {"D": "h p"},
            "segments": (1, 3),
            "options": {"chunk_size": 3, "norm_before_gate": True, "dt_limit": (0.1, 0.7)},
        },
    ),
    (
        "mamba_split_conv1d_scan_combined",
        {
            "sizes": {"b": 1, "l": 4, "h": 2, "p": 3, "g": 1, "n": 3, "w": 3, "m": 4, "f": 2},
            "given": frozenset({"rmsnorm_weight", "outproj_weight", "outproj_bias"}),
        },
    ),
    ("mamba3_siso_combined", {"sizes": MAMBA3, "given": frozenset({"D", "Z", *MAMBA3_STATES})}),
    (
        "mamba3_siso_combined",
        {
            "sizes": {**MAMBA3, "b": 1},
            "given": frozenset({"D", "cu_seqlens", *MAMBA3_STATES}),
            "segments": (1, 0, 3),
            "axes": {name: f"S {axes}" for name, axes in MAMBA3_STATES.items()},
        },
    ),
    ("chunk_gated_delta_rule", {"options": {"chunk_size": 3, "output_final_state": True}}),
    (
        "chunk_gated_delta_rule",
        {
            "sizes": {"b": 2, "l": 4, "h": 2, "p": 2, "g": 1, "n": 3},
            "given": frozenset({"A_log", "dt_bias"}),
            "values": {"k": "normal", "g": "normal", "beta": "normal"},
            "options": {
                "chunk_size": 3,
                "use_qk_l2norm_in_kernel": True,
                "use_gate_in_kernel": True,
                "use_beta_sigmoid_in_kernel": True,
                "allow_neg_eigval": True,
            },
        },
    ),
    (
        "chunk_gated_delta_rule",
        {
            "sizes": {"b": 1, "l": 4, "h": 2, "p": 2, "g": 2, "n": 3},
            "given": frozenset({"initial_state", "cu_seqlens"}),
            "axes": {"initial_state": "S h n p", "final_state": "S h n p"},
            "segments": (1, 0, 3),
            "options": {"chunk_size": 2, "output_final_state": True},
        },
    ),
    (
        "apply_rotary_emb",
        {"sizes": {"b": 2, "l": 2, "q": 2, "p": 5, "r": 4, "m": 4}, "given": frozenset({"seqlen_offsets"})},
    ),
    ("layer_norm_fn", {"given": frozenset({"residual"}), "options": {"prenorm": True}}),
    ("rms_norm_fn", {"given": frozenset({"residual"}), "options": {"prenorm": True}}),
    ("rmsnorm_fn", {"given": frozenset({"z"})}),
]


@pytest.mark.parametrize(("name", "changes"), DIFFERENTIABLE)
def test_gradients_are_those_of_finite_differences(name: str, changes: dict[str, Any]) -> None:
    op, case = operation_table.find_operation(name), small_case(name, **changes)
    arguments = compare.convert_to_float64(compare.draw_inputs(op, case))
    names = [
        each.name for each in op.arguments if each.differentiable and isinstance(arguments.get(each.name), torch.Tensor)
    ]
    leaves = [arguments[each].clone().requires_grad_() for each in names]

    def call(*values: Tensor) -> tuple[Tensor, ...]:
        return tuple(op.reference(**{**arguments, **dict(zip(names, values, strict=True))}))

    assert torch.autograd.gradcheck(call, leaves)


def test_every_operation_with_a_backward_case_has_its_gradients_checked() -> None:
    assert {case.op for case in cases.load() if case.backward} == {name for name, _ in DIFFERENTIABLE}


@given(length=st.integers(1, 20), groups=st.sampled_from([1, 2, 4]), chunk=st.integers(1, 24))
@settings(max_examples=30)
def test_the_three_forms_of_the_duality_are_one_map(length: int, groups: int, chunk: int) -> None:
    arguments = ssd_arguments(length, groups)
    quadratic = quadratic_ssd.ssd_quadratic(**arguments)
    close(quadratic, papers.ssd_recurrence(**arguments)[0])
    close(quadratic, mamba2.mamba_chunk_scan_combined(**arguments, chunk_size=chunk)[0])


def test_packed_sequences_and_their_states_are_those_of_the_sequences_alone() -> None:
    a, start = ssd_arguments(12), random(2, 4, 3, 5)
    seq_idx = torch.tensor([0] * 5 + [1] + [2] * 6).expand(2, 12)
    y, final, varlen = mamba2.mamba_chunk_scan_combined(
        **a, chunk_size=4, initial_states=start, seq_idx=seq_idx, return_final_states=True, return_varlen_states=True
    )
    spans = [(0, 5, start), (5, 6, None), (6, 12, None)]
    for number, (first, end, initial) in enumerate(spans):
        piece = {key: value if key == "A" else value[:, first:end] for key, value in a.items()}
        alone, state = papers.ssd_recurrence(**piece, initial_state=initial)
        close(y[:, first:end], alone)
        close(varlen[[number, number + 3]], state)
    close(final, varlen[[2, 5]])


def test_an_empty_sequence_has_the_state_that_it_began_with_and_hands_it_to_no_other() -> None:
    a, start = ssd_arguments(6), random(2, 4, 3, 5)
    a = {key: value if key == "A" else value[:1] for key, value in a.items()}
    seq_idx, ends = torch.tensor([[1, 1, 3, 3, 3, 3]]), torch.tensor([0, 0, 2, 2, 6, 6])
    y, final, varlen = mamba2.mamba_chunk_scan_combined(
        **a, chunk_size=4, initial_states=start[:1], seq_idx=seq_idx, cu_seqlens=ends,
        return_final_states=True, return_varlen_states=True,
    )  # fmt: skip
    for number, (first, end) in ((1, (0, 2)), (3, (2, 6))):
        piece = {key: value if key == "A" else value[:, first:end] for key, value in a.items()}
        alone, state = papers.ssd_recurrence(**piece)
        close(y[:, first:end], alone)
        close(varlen[number : number + 1], state)
    close(varlen[:1], start[:1])
    assert not varlen[[2, 4]].any()
    close(final, varlen[3:4])


def test_without_a_position_a_scan_returns_the_state_that_it_was_given() -> None:
    a, start = ssd_arguments(1), random(2, 4, 3, 5)
    none = {key: value if key == "A" else value[:, :0] for key, value in a.items()}
    y, final = mamba2.mamba_chunk_scan_combined(**none, chunk_size=4, initial_states=start, return_final_states=True)
    assert y.shape == (2, 0, 4, 3)
    assert torch.equal(final, start)
    assert not mamba2.mamba_chunk_scan_combined(**none, chunk_size=4, return_final_states=True)[1].any()
    u, A, B = random(2, 4, 0), random(4, 3), random(2, 3, 0)
    y, last = mamba1.selective_scan_fn(u, u, A, B, B, return_last_state=True)
    assert y.shape == (2, 4, 0)
    assert last.shape == (2, 4, 3)
    assert not last.any()
    before = random(2, 4, 2)
    y, kept = convolution.causal_conv1d_fn(u, random(4, 3), initial_states=before, return_final_states=True)
    assert y.shape == (2, 4, 0)
    assert torch.equal(kept, before)


def test_an_empty_sequence_changes_no_other_and_queries_without_keys_give_zero() -> None:
    q, k, v = random(5, 2, 3), random(7, 1, 3), random(7, 1, 3, seed=1)
    ends_q, ends_k = torch.tensor([0, 0, 3, 3, 5]), torch.tensor([0, 0, 5, 7, 7])
    (out,) = attention.flash_attn_varlen_func(q, k, v, ends_q, ends_k, 3, 5, causal=True)
    close(out[:3], attention.flash_attn_func(q[None, :3], k[None, :5], v[None, :5], causal=True)[0][0])
    assert not out[3:].any()


def test_steps_are_limited_after_bias_and_softplus() -> None:
    a = ssd_arguments(7)
    bias, limits = random(4, seed=5), (0.3, 0.9)
    y, *_ = mamba2.mamba_chunk_scan_combined(**a, chunk_size=4, dt_bias=bias, dt_softplus=True, dt_limit=limits)
    steps = F.softplus(a["dt"] + bias).clamp(*limits)
    close(y, papers.ssd_recurrence(**{**a, "dt": steps})[0])


@pytest.mark.parametrize("form", ["constant", "shared", "grouped"])
def test_selective_scan_takes_each_form_of_b_and_c(form: str) -> None:
    u, delta, A = random(2, 4, 6), F.softplus(random(2, 4, 6, seed=1)), -random(4, 3).exp()
    shapes = {"constant": (4, 3), "shared": (2, 3, 6), "grouped": (2, 2, 3, 6)}
    B, C = random(*shapes[form]), random(*shapes[form], seed=1)
    y, last = mamba1.selective_scan_fn(u, delta, A, B, C, return_last_state=True)
    for channel in range(4):
        views = {
            "constant": lambda part, i=channel: part[i].expand(2, 3).unsqueeze(-1).expand(2, 3, 6),
            "shared": lambda part, i=channel: part,
            "grouped": lambda part, i=channel: part[:, i // 2],
        }
        one = slice(channel, channel + 1)
        alone, state = papers.selective_scan(u[:, one], delta[:, one], A[one], views[form](B), views[form](C))
        close(y[:, one], alone)
        close(last[:, one], state)


def twice(value: Tensor) -> Tensor:
    """The real matrix that acts on pairs of real and imaginary parts as the complex matrix does on numbers."""
    return torch.cat([torch.cat([value.real, -value.imag], -1), torch.cat([value.imag, value.real], -1)], -2)


def of_channel(part: Tensor, form: str, row: int, channel: int) -> Tensor:
    """B or C of one channel and one row: (3, 6)."""
    if form == "constant":
        return part[channel, :, None].expand(3, 6)
    return part[row] if form == "shared" else part[row, channel // 2]


@pytest.mark.parametrize("form", ["constant", "shared", "grouped"])
def test_a_complex_scan_is_the_real_one_of_twice_as_many_states(form: str) -> None:
    """Each channel is computed as a linear system: x' = exp(delta A) x + delta B u, y = C x plus its conjugate."""
    u, delta = random(2, 4, 6), F.softplus(random(2, 4, 6, seed=1))
    A = torch.complex(-random(4, 3).exp(), 3 * random(4, 3, seed=2))
    shapes = {"constant": (4, 3), "shared": (2, 3, 6), "grouped": (2, 2, 3, 6)}
    B, C = (torch.complex(random(*shapes[form], seed=s), random(*shapes[form], seed=s + 1)) for s in (3, 5))
    given_B, given_C = (part if form == "constant" else torch.view_as_real(part).flatten(-2) for part in (B, C))
    y, last = mamba1.selective_scan_fn(u, delta, A, given_B, given_C, return_last_state=True)
    for row in range(2):
        for channel in range(4):
            b, c = (of_channel(part, form, row, channel) for part in (B, C))
            state = torch.zeros(6, dtype=torch.float64)
            for t in range(6):
                step = torch.linalg.matrix_exp(delta[row, channel, t] * twice(torch.diag(A[channel])))
                inflow = delta[row, channel, t] * u[row, channel, t] * torch.cat([b[:, t].real, b[:, t].imag])
                state = step @ state + inflow
                close(y[row, channel, t], 2 * torch.cat([c[:, t].real, -c[:, t].imag]) @ state)
            close(last[row, channel].real, state[:3])
            close(last[row, channel].imag, state[3:])


def test_the_inner_function_is_its_parts_by_pytorch() -> None:
    """Convolution, projections and norms of dt, B and C by PyTorch's own functions, around the scan."""
    xz, conv, proj, up, out = random(2, 8, 5), random(4, 1, 3), random(2 + 6, 4), random(4, 2), random(3, 4)
    A, D, bias = -random(4, 3).abs(), random(4), random(4)
    B_bias, C_bias, b_weight, c_weight, dt_weight = random(3), random(3), random(3), random(3), random(4)
    x, z = xz.chunk(2, dim=1)
    x = F.silu(F.conv1d(F.pad(x, (2, 0)), conv, bias, groups=4))
    low, B, C = torch.split(F.linear(x.mT, proj), [2, 3, 3], dim=-1)
    dt = F.rms_norm(F.linear(low, up), (4,), dt_weight, 0.1).mT
    B, C = F.rms_norm(B + B_bias, (3,), b_weight, 0.1).mT, F.rms_norm(C + C_bias, (3,), c_weight, 0.1).mT
    (y,) = mamba1.selective_scan_fn(x, dt, A, B, C, D, z, bias, delta_softplus=True)
    (got,) = mamba1.mamba_inner_fn(
        xz, conv, bias, proj, up, out, None, A, D=D, delta_bias=bias, B_proj_bias=B_bias, C_proj_bias=C_bias,
        b_rms_weight=b_weight, c_rms_weight=c_weight, dt_rms_weight=dt_weight, b_c_dt_rms_eps=0.1,
    )  # fmt: skip
    close(got, F.linear(y.mT, out))


def test_state_update_changes_the_rows_it_is_given_and_no_other() -> None:
    state, x, dt = random(5, 2, 3, 4), random(3, 2, 3), F.softplus(random(3, 2, 3, seed=1))
    A, B, C = -random(2, 3, 4).exp(), random(3, 1, 4), random(3, 1, 4, seed=1)
    rows = torch.tensor([4, -1, 0], dtype=torch.int32)
    y, after = mamba1.selective_state_update(state, x, dt, A, B, C, state_batch_indices=rows)
    assert torch.equal(after[1:4], state[1:4])
    assert not y[1].any()
    for i, row in ((0, 4), (2, 0)):
        one = slice(i, i + 1)
        alone, moved = mamba1.selective_state_update(state[row : row + 1], x[one], dt[one], A, B[one], C[one])
        close(y[one], alone)
        close(after[row : row + 1], moved)


def test_norms_are_those_of_pytorch() -> None:
    x, residual, weight, bias = random(2, 6), random(2, 6, seed=1), random(6, seed=2), random(6, seed=3)
    y, total = norms.layer_norm_fn(x, weight, bias, residual, prenorm=True)
    close(total, x + residual)
    close(y, F.layer_norm(total, (6,), weight, bias, 1e-6))
    close(norms.rms_norm_fn(x, weight, None, eps=1e-5)[0], F.rms_norm(x, (6,), weight, 1e-5))
    close(norms.rmsnorm_fn(x, weight, bias, residual)[0], (F.rms_norm(x, (6,), weight, 1e-6) + bias) * F.silu(residual))


@pytest.mark.parametrize("name", sorted(FIRST))
def test_a_form_rounds_and_the_reference_does_not(name: str) -> None:
    op = operation_table.find_operation(name)
    case = replace(FIRST[name], dtype="bfloat16")
    arguments = compare.draw_inputs(op, case)
    form, exact = compare.run_form(op, case, arguments), compare.run_reference(op, case, arguments)
    for output in op.expected_outputs(case):
        assert exact[output.name].dtype == torch.float64
        error = (form[output.name].double() - exact[output.name]).abs().max() / exact[output.name].abs().max()
        assert error < 0.1
        copied = output.name in (*op.changes, "states", "final_v_state", "v_state")
        assert error > 0 or copied or case.sizes.get("m") == 1


def test_tf32_cuts_gradients_as_well() -> None:
    """In a backward pass the gradient is an operand of the matrix products too."""
    value = torch.ones(3, requires_grad=True)
    (gradient,) = torch.autograd.grad(precision.tf32(value), value, torch.tensor([1 / 3, 1.0, -2 / 3]))
    assert torch.equal(gradient, precision.tf32(torch.tensor([1 / 3, 1.0, -2 / 3])))
    assert gradient[0] < torch.tensor(1 / 3)


@given(st.floats(-(2.0**100), 2.0**100, width=32))
def test_tf32_keeps_ten_bits_and_cuts_the_rest(value: float) -> None:
    kept = float(precision.tf32(torch.tensor([value]))[0])
    assert abs(kept - value) <= abs(value) * 2**-10 + 1e-38
    assert abs(kept) <= abs(value)
    assert int(torch.tensor([kept]).view(torch.int32)[0]) & 0x1FFF == 0
