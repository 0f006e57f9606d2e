"""The formulas of the papers (`references/papers.py`) agree with step-by-step computation and with PyTorch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.support.late import Late
from tests.support.ssd_inputs import random, ssd_arguments

if TYPE_CHECKING:
    import torch
    import torch.nn.functional as F
    from torch import Tensor

    from scanproof.kernels.references import papers
else:
    torch, F, papers = Late("torch"), Late("torch.nn.functional"), Late("scanproof.kernels.references.papers")

CHUNK = 8
LENGTHS = (1, 2, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK, 3 * CHUNK + 5)


def scan_arguments(length: int) -> dict[str, Any]:
    return {
        "u": random(2, 3, length),
        "delta": random(2, 3, length, seed=1),
        "A": -random(3, 4, seed=2).exp(),
        "B": random(2, 4, length, seed=3),
        "C": random(2, 4, length, seed=4),
        "D": random(3, seed=5),
        "z": random(2, 3, length, seed=6),
        "delta_bias": random(3, seed=7),
    }


def scan_by_hand(a: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """The scan, computed one number at a time from the paper's equations."""
    delta = F.softplus(a["delta"] + a["delta_bias"][:, None])
    batch, channels, length = a["u"].shape
    y, h = torch.zeros_like(a["u"]), torch.zeros(batch, channels, a["A"].shape[1], dtype=torch.float64)
    for i in range(batch):
        for c in range(channels):
            for t in range(length):
                step = delta[i, c, t]
                h[i, c] = torch.exp(step * a["A"][c]) * h[i, c] + step * a["B"][i, :, t] * a["u"][i, c, t]
                y[i, c, t] = a["C"][i, :, t] @ h[i, c] + a["D"][c] * a["u"][i, c, t]
    return y * F.silu(a["z"]), h


@pytest.mark.parametrize("length", LENGTHS)
def test_selective_scan_is_the_recurrence_of_the_paper(length: int) -> None:
    arguments = scan_arguments(length)
    y, last = papers.selective_scan(**arguments, delta_softplus=True, chunk_size=CHUNK)
    expected, state = scan_by_hand(arguments)
    torch.testing.assert_close(y, expected, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(last, state, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("groups", [1, 2, 4])
def test_ssd_is_its_own_recurrence(length: int, groups: int) -> None:
    arguments = ssd_arguments(length, groups, skip=True)
    start = random(2, 4, 3, 5, seed=9)
    y, last = papers.ssd(**arguments, chunk_size=CHUNK, initial_state=start)
    expected, state = papers.ssd_recurrence(**arguments, initial_state=start)
    torch.testing.assert_close(y, expected, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(last, state, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("cut", [1, CHUNK, CHUNK + 3])
def test_a_scan_goes_on_from_the_state_it_returned(cut: int) -> None:
    a = scan_arguments(20)
    whole, last = papers.selective_scan(**a, delta_softplus=True, chunk_size=CHUNK)
    timed = ("u", "delta", "B", "C", "z")
    first = {key: value[..., :cut] if key in timed else value for key, value in a.items()}
    second = {key: value[..., cut:] if key in timed else value for key, value in a.items()}
    y1, state = papers.selective_scan(**first, delta_softplus=True, chunk_size=CHUNK)
    y2, end = papers.selective_scan(**second, delta_softplus=True, chunk_size=CHUNK, initial_state=state)
    torch.testing.assert_close(torch.cat([y1, y2], dim=-1), whole, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(end, last, rtol=1e-10, atol=1e-10)


def test_ssd_with_one_channel_per_head_is_a_selective_scan() -> None:
    a = ssd_arguments(19, groups=1, skip=True)
    x = a["x"][..., :1]
    y, _ = papers.ssd(x, a["dt"], a["A"], a["B"], a["C"], CHUNK, a["D"])
    same, _ = papers.selective_scan(
        x[..., 0].mT, a["dt"].mT, a["A"][:, None].expand(4, 5), a["B"][:, :, 0].mT, a["C"][:, :, 0].mT, a["D"]
    )
    torch.testing.assert_close(y[..., 0].mT, same, rtol=1e-10, atol=1e-10)


def test_ssd_survives_decays_that_underflow() -> None:
    a = ssd_arguments(40, skip=True)
    a["A"] = torch.full((4,), -2000.0, dtype=torch.float64)
    y, last = papers.ssd(**a, chunk_size=CHUNK)
    expected, state = papers.ssd_recurrence(**a)
    torch.testing.assert_close(y, expected, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(last, state, rtol=1e-10, atol=1e-10)


def test_ssd_skip_per_channel() -> None:
    a = ssd_arguments(9)
    skip = random(4, 3)
    with_skip, _ = papers.ssd(a["x"], a["dt"], a["A"], a["B"], a["C"], CHUNK, skip)
    without, _ = papers.ssd(a["x"], a["dt"], a["A"], a["B"], a["C"], CHUNK)
    torch.testing.assert_close(with_skip, without + skip * a["x"], rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("activation", [None, "silu"])
@pytest.mark.parametrize("length", [1, 2, 4, 9])
def test_causal_conv1d_is_torch_conv1d(length: int, activation: str | None) -> None:
    x, weight, bias = random(2, 3, length), random(3, 4), random(3)
    y = papers.causal_conv1d(x, weight, bias, activation)
    expected = F.conv1d(x, weight[:, None], bias, padding=3, groups=3)[..., :length]
    torch.testing.assert_close(y, F.silu(expected) if activation else expected)


def test_causal_conv1d_goes_on_from_earlier_inputs() -> None:
    x, weight = random(2, 3, 11), random(3, 4)
    later = papers.causal_conv1d(x[..., 5:], weight, initial_state=x[..., 2:5])
    torch.testing.assert_close(later, papers.causal_conv1d(x, weight)[..., 5:])


def test_causal_conv1d_refuses_an_unknown_activation() -> None:
    with pytest.raises(ValueError, match="'relu' is not known"):
        papers.causal_conv1d(random(1, 1, 3), random(1, 2), activation="relu")


def test_norms() -> None:
    x, z, weight = random(2, 6), random(2, 6, seed=1), random(6, seed=2)
    torch.testing.assert_close(papers.rms_norm(x, weight), F.rms_norm(x, (6,), weight, 1e-5))
    halves = torch.cat([F.rms_norm(part, (3,), eps=1e-5) for part in torch.split(x * F.silu(z), 3, dim=-1)], dim=-1)
    torch.testing.assert_close(papers.gated_rms_norm(x, z, weight, group_size=3), halves * weight)
    torch.testing.assert_close(
        papers.gated_rms_norm(x, z, weight, norm_before_gate=True), F.rms_norm(x, (6,), weight, 1e-5) * F.silu(z)
    )


def test_gradients() -> None:
    scan = {key: value.requires_grad_() for key, value in scan_arguments(5).items()}
    assert torch.autograd.gradcheck(
        lambda u, delta, A, B, C, D, z, bias: papers.selective_scan(u, delta, A, B, C, D, z, bias, True, chunk_size=2),
        tuple(scan.values()),
    )
    duality = {key: value.requires_grad_() for key, value in ssd_arguments(5, skip=True).items()}
    assert torch.autograd.gradcheck(lambda x, dt, A, B, C, D: papers.ssd(x, dt, A, B, C, 2, D), tuple(duality.values()))
    norm = (random(2, 4).requires_grad_(), random(2, 4, seed=1).requires_grad_(), random(4).requires_grad_())
    assert torch.autograd.gradcheck(lambda x, z, w: papers.gated_rms_norm(x, z, w, group_size=2), norm)


@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16"])
def test_the_dtype_of_the_arguments_is_the_dtype_of_the_result(dtype: str) -> None:
    asked = getattr(torch, dtype)
    scan = {key: value.to(asked) for key, value in scan_arguments(9).items()}
    duality = {key: value.to(asked) for key, value in ssd_arguments(9, skip=True).items()}
    for y in (*papers.selective_scan(**scan, delta_softplus=True), *papers.ssd(**duality, chunk_size=CHUNK)):
        assert y.dtype == asked
