"""The references agree with each other, with PyTorch's own functions, and with finite differences."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any
from unittest import mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scanproof.kernels import cases
from tests.support.late import Late

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
FIRST = {case.op: case for case in reversed(cases.load())}


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed + sum(shape)))


def close(first: Tensor, second: Tensor) -> None:
    torch.testing.assert_close(first, second, rtol=1e-10, atol=1e-10)


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
    ("mamba_chunk_scan_combined", {"given": frozenset({"D", "z", "dt_bias", "initial_states"})}),
    ("mamba_chunk_scan_combined", {"given": frozenset({"seq_idx", "dt_bias", "initial_states"}), "segments": (1, 3)}),
    ("mamba_split_conv1d_scan_combined", {"given": frozenset({"rmsnorm_weight", "initial_states"})}),
    ("causal_conv1d_fn", {"given": frozenset({"bias", "initial_states"}), "options": {"return_final_states": True}}),
    ("causal_conv1d_fn", {"given": frozenset({"bias", "seq_idx"}), "segments": (1, 3)}),
    ("flash_attn_func", {"sizes": {"b": 1, "l": 4, "m": 2, "q": 2, "k": 1, "p": 3}}),
    ("flash_attn_varlen_func", {"segments": (1, 3)}),
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


def ssd_arguments(length: int, groups: int = 2) -> dict[str, Any]:
    return {
        "x": random(2, length, 4, 3),
        "dt": F.softplus(random(2, length, 4)),
        "A": -random(4).exp(),
        "B": random(2, length, groups, 5),
        "C": random(2, length, groups, 5, seed=1),
    }


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


@given(seen=st.integers(0, 20), state=st.integers(3, 6), new=st.integers(1, 5))
@settings(max_examples=40)
def test_a_ring_of_inputs_convolves_like_the_whole_sequence(seen: int, state: int, new: int) -> None:
    inputs, weight = random(1, 2, seen + new), random(2, 4)
    ring = torch.zeros(1, 2, state, dtype=torch.float64)
    for position in range(seen):
        ring[..., position % state] = inputs[..., position]
    y, after = convolution.causal_conv1d_update(
        inputs[..., seen:], ring, weight, cache_seqlens=torch.tensor([seen], dtype=torch.int32)
    )
    close(y, papers.causal_conv1d(inputs, weight)[..., seen:])
    for position in range(max(0, seen + new - state), seen + new):
        close(after[..., position % state], inputs[..., position])


def test_padding_of_a_packed_row_gives_zero() -> None:
    seq_idx = torch.tensor([[0, 0, 1, -1]])
    (y,) = convolution.causal_conv1d_fn(random(1, 2, 4), random(2, 3), random(2), seq_idx)
    assert not y[..., 3].any()


@pytest.mark.parametrize(("queries", "keys"), [(4, 4), (1, 5), (5, 2)])
def test_causal_attention_is_aligned_to_the_bottom_right(queries: int, keys: int) -> None:
    q, k, v = random(1, queries, 2, 4), random(1, keys, 2, 4), random(1, keys, 2, 4, seed=1)
    (y,) = attention.flash_attn_func(q, k, v, causal=True)
    for i in range(queries):
        seen = max(0, keys - queries + i + 1)
        one, keys_seen, values_seen = (part.transpose(1, 2) for part in (q[:, i : i + 1], k[:, :seen], v[:, :seen]))
        expected = F.scaled_dot_product_attention(one, keys_seen, values_seen).transpose(1, 2)
        expected = expected if seen else torch.zeros_like(expected)
        close(y[:, i : i + 1], expected)


def test_heads_of_queries_read_the_key_head_of_their_group() -> None:
    q, k, v = random(1, 3, 4, 2), random(1, 3, 2, 2), random(1, 3, 2, 2, seed=1)
    (y,) = attention.flash_attn_func(q, k, v)
    for head in range(4):
        own = slice(head // 2, head // 2 + 1)
        (alone,) = attention.flash_attn_func(q[:, :, head : head + 1], k[:, :, own], v[:, :, own])
        close(y[:, :, head : head + 1], alone)


def test_a_window_hides_what_is_further_left() -> None:
    q, k, v = random(1, 6, 1, 2), random(1, 6, 1, 2), random(1, 6, 1, 2, seed=1)
    (y,) = attention.flash_attn_func(q, k, v, causal=True, window_size=(2, 0))
    (last,) = attention.flash_attn_func(q[:, 5:], k[:, 3:], v[:, 3:])
    close(y[:, 5:], last)


@given(
    block=st.integers(1, 60), queries=st.integers(1, 9), keys=st.integers(1, 9), causal=st.booleans(),
    window=st.tuples(st.integers(-1, 4), st.integers(-1, 4)),
)  # fmt: skip
@settings(max_examples=100)
def test_attention_in_blocks_of_queries_is_that_of_all_scores(
    block: int, queries: int, keys: int, causal: bool, window: tuple[int, int]
) -> None:
    """Values and gradients equal PyTorch's, which uses all scores and a mask, for any number of blocks."""
    q, k, v = random(2, queries, 4, 3), random(2, keys, 2, 3, seed=1), random(2, keys, 2, 3, seed=2)
    leaves = [part.requires_grad_() for part in (q, k, v)]
    first, second, third = (part.transpose(1, 2) for part in leaves)
    place = torch.arange(queries)[:, None] + keys - queries
    left, right = (window[0] if window[0] >= 0 else keys + queries), window[1] if window[1] >= 0 else keys + queries
    seen = (torch.arange(keys) >= place - left) & (torch.arange(keys) <= place + (0 if causal else right))
    blind = ~seen.any(dim=-1)
    mask = seen | blind[:, None]
    whole = F.scaled_dot_product_attention(first, second, third, attn_mask=mask, enable_gqa=True).transpose(1, 2)
    whole = whole.masked_fill(blind[:, None, None], 0.0)
    with mock.patch("scanproof.kernels.references.attention.BLOCK_SCORES", block):
        (y,) = attention.flash_attn_func(q, k, v, causal=causal, window_size=window)
        close(y, whole)
        sent = random(2, queries, 4, 3, seed=3)
        for mine, theirs in zip(*(torch.autograd.grad(each, leaves, sent) for each in (y, whole)), strict=True):
            close(mine, theirs)


def test_attention_keeps_nothing_but_its_inputs_for_the_backward_pass() -> None:
    """All scores of 65,536 positions would take 32 GiB per head."""
    kept: list[int] = []

    def keep(value: Tensor) -> Tensor:
        kept.append(value.untyped_storage().data_ptr())
        return value

    q, k, v = (random(1, 40, 1, 2, seed=seed).requires_grad_() for seed in range(3))
    with (
        mock.patch("scanproof.kernels.references.attention.BLOCK_SCORES", 80),
        torch.autograd.graph.saved_tensors_hooks(keep, lambda value: value),
    ):
        attention.flash_attn_func(q, k, v)
    assert set(kept) == {part.untyped_storage().data_ptr() for part in (q, k, v)}


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
        assert error > 0 or output.name in op.changes or case.sizes.get("m") == 1


@given(st.floats(-(2.0**100), 2.0**100, width=32))
def test_tf32_keeps_ten_bits_and_cuts_the_rest(value: float) -> None:
    kept = float(precision.tf32(torch.tensor([value]))[0])
    assert abs(kept - value) <= abs(value) * 2**-10 + 1e-38
    assert abs(kept) <= abs(value)
    assert int(torch.tensor([kept]).view(torch.int32)[0]) & 0x1FFF == 0
