"""Each selective scan that starts from a state, against the recurrence in float64."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.late import Late

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from scanproof.scoring import scans
else:
    torch, scans = Late("torch"), Late("scanproof.scoring.scans")

Scan = Callable[..., Any]


def arguments(
    length: int, groups: int = 0, *, decay: float = 1.0, steps: float = 0.0, dtype: str = "float64", seed: int = 0
) -> list[Tensor]:
    """u, delta, A, B, C, D, z, bias and the state before, of 2 rows and 6 channels of 5 states.

    Args:
        groups: of B and C; 0 for one that all channels share, without a dimension of its own.
        decay: A lies between -1 and -5 times this.
        steps: added to the step sizes before softplus.
        dtype: of u, delta, B, C and z; the others have float32 or wider.
    """
    draw = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=draw, dtype=torch.float64)

    kind = getattr(torch, dtype)
    wide = torch.promote_types(kind, torch.float32)
    shared = (2, groups, 5, length) if groups else (2, 5, length)
    A = -decay * torch.arange(1, 6, dtype=torch.float64).repeat(6, 1)
    narrow = [
        normal(2, 6, length),
        normal(2, 6, length) + steps,
        normal(*shared),
        normal(*shared),
        normal(2, 6, length),
    ]
    u, delta, B, C, z = (part.to(kind) for part in narrow)
    A, D, bias, before = (part.to(wide) for part in (A, normal(6), normal(6), 3 * normal(2, 6, 5)))
    return [u, delta, A, B, C, D, z, bias, before]


def by_hand(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, z: Tensor, bias: Tensor, before: Tensor
) -> tuple[Tensor, Tensor]:
    """h[t] = exp(delta A) h[t - 1] + delta B u, y = (C h + D u) silu(z) (arXiv 2312.00752), position by position."""
    u, delta, A, B, C, D, z, bias, h = (part.double() for part in (u, delta, A, B, C, D, z, bias, before))
    if B.dim() == 3:
        B, C = B[:, None], C[:, None]
    B, C = (part.repeat_interleave(6 // part.shape[1], dim=1) for part in (B, C))
    outputs = []
    for t in range(u.shape[-1]):
        step = (1 + (delta[..., t] + bias).exp()).log()[..., None]
        h = (step * A).exp() * h + step * B[..., t] * u[..., t, None]
        outputs.append(((h * C[..., t]).sum(-1) + D * u[..., t]) * z[..., t] / (1 + (-z[..., t]).exp()))
    return torch.stack(outputs, dim=-1), h


def kernel() -> Scan:
    """The operation's reference with the kernel's interface: no first state, results in the inputs' dtype."""
    from scanproof.models.mamba_in_llama.operations import operations

    return operations(torch.device("cpu")).selective_scan_fn


def ways() -> dict[str, Scan]:
    return {"reference": scans.scan_with_reference, "superposed": scans.add_first_state(kernel())}


def error(got: tuple[Tensor, Tensor], wanted: tuple[Tensor, Tensor]) -> float:
    """The largest error of both results, as a share of the result's largest number."""
    return max(
        float((a.double() - b).abs().max() / b.abs().max().clamp(min=1e-300)) for a, b in zip(got, wanted, strict=True)
    )


@given(
    st.sampled_from(["reference", "superposed"]),
    st.sampled_from([1, 2, 63, 64, 65, 130]),
    st.sampled_from([0, 1, 2, 3, 6]),
    st.sampled_from([1e-3, 1.0, 100.0]),
    st.sampled_from([-8.0, 0.0, 8.0]),
    st.integers(0, 10**6),
)
@settings(max_examples=60)
def test_both_are_the_recurrence(way: str, length: int, groups: int, decay: float, steps: float, seed: int) -> None:
    given_ = arguments(length, groups, decay=decay, steps=steps, seed=seed)
    assert error(ways()[way](*given_), by_hand(*given_)) < 1e-11


@pytest.mark.parametrize("groups", [0, 3])
@pytest.mark.parametrize(("dtype", "most"), [("float32", 2e-6), ("bfloat16", 2e-2)])
@pytest.mark.parametrize("decay", [1e-3, 1.0, 1e4])
def test_superposition_costs_no_accuracy(groups: int, dtype: str, most: float, decay: float) -> None:
    """The error is that of the kernel's scan from zero; nothing overflows where A is very negative."""
    given_ = arguments(300, groups, decay=decay, dtype=dtype)
    got = ways()["superposed"](*given_)
    assert all(torch.isfinite(part).all() for part in got)
    assert error(got, by_hand(*given_)) < most
    assert {part.dtype for part in got} == {torch.float32}


@pytest.mark.parametrize("way", ["reference", "superposed"])
@pytest.mark.parametrize("cut", [1, 64, 100])
def test_in_two_pieces_is_in_one(way: str, cut: int) -> None:
    u, delta, A, B, C, D, z, bias, before = arguments(130)
    scan = ways()[way]
    whole, last = scan(u, delta, A, B, C, D, z, bias, before)
    state, pieces = before, []
    for part in (slice(0, cut), slice(cut, None)):
        y, state = scan(
            *(x[..., part] for x in (u, delta)), A, B[..., part], C[..., part], D, z[..., part], bias, state
        )
        pieces.append(y)
    assert torch.allclose(torch.cat(pieces, dim=-1), whole, rtol=0, atol=1e-11)
    assert torch.allclose(state, last, rtol=0, atol=1e-11)


@pytest.mark.parametrize("way", ["reference", "superposed"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_padded_end_changes_nothing(way: str, dtype: str) -> None:
    """MASKED_STEP is 0 after softplus, so the state does not change."""
    from scanproof.scoring.mixer_forms import MASKED_STEP

    given_ = arguments(70, dtype=dtype)
    short = [part[..., :40] if part.shape[-1] == 70 else part for part in given_]
    given_[1][..., 40:] = MASKED_STEP
    y, last = ways()[way](*given_)
    wanted, state = ways()[way](*short)
    assert torch.allclose(y[..., :40], wanted, rtol=1e-6, atol=1e-5)
    assert torch.allclose(last, state, rtol=1e-6, atol=1e-5)


def test_the_kernel_is_handed_whole_inputs() -> None:
    """mamba_ssm's kernel reads 16 bytes at a time where the length is a multiple of 128; a sliced input kills it.

    `forms.convolve` hands over such an input: what its window added is cut off.
    """

    def particular(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, *rest: Any, **options: Any) -> Any:
        assert all(part.is_contiguous() for part in (u, delta, B, C))
        return kernel()(u, delta, A, B, C, *rest, **options)

    given_ = arguments(131)
    cut = [part[..., 3:] if part.shape[-1] == 131 else part for part in given_]
    assert error(scans.add_first_state(particular)(*cut), by_hand(*cut)) < 1e-11


FAULTS: dict[str, Callable[[Any], Any]] = {
    "no state": lambda before: torch.zeros_like(before),
    "of the neighbour": lambda before: before.roll(1, 0),
    "another channel's": lambda before: before.roll(1, 1),
}


@pytest.mark.parametrize("way", ["reference", "superposed"])
@pytest.mark.parametrize("fault", FAULTS)
def test_another_state_is_seen(way: str, fault: str) -> None:
    given_ = arguments(20)
    wanted = by_hand(*given_)
    given_[-1] = FAULTS[fault](given_[-1])
    assert error(ways()[way](*given_), wanted) > 1e-3


class Most:
    """The most bytes that tensors returned by operations take at one time."""

    def __init__(self) -> None:
        self.now = self.most = 0
        self._alive: dict[int, int] = {}

    def made(self, results: Any) -> None:
        from torch.utils._pytree import tree_leaves

        for result in tree_leaves(results):
            if isinstance(result, torch.Tensor):
                place, size = result.untyped_storage().data_ptr(), result.untyped_storage().nbytes()
                self.now += 0 if self._alive.get(place) else size
                self._alive[place] = self._alive.get(place, 0) + 1
                weakref.finalize(result, self._gone, place, size)
        self.most = max(self.most, self.now)

    def _gone(self, place: int, size: int) -> None:
        self._alive[place] -= 1
        self.now -= 0 if self._alive[place] else size


@pytest.mark.parametrize("length", [1, 16, 64, 100, 200])
@pytest.mark.parametrize("size", [8, 16])
def test_superposition_has_as_many_states_in_memory_as_it_says(length: int, size: int) -> None:
    """Of many channels, so that B and C, which all channels share, are few beside them."""
    from torch.utils._python_dispatch import TorchDispatchMode

    told = Most()
    # torch does not annotate it.
    mode: Any = TorchDispatchMode

    class Watching(mode):  # type: ignore[misc]
        def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            results = function(*args, **(kwargs or {}))
            told.made(results)
            return results

    rows, channels = 2, 400
    inputs = [torch.randn(rows, channels, length) for _ in range(3)]
    B, C = torch.randn(2, rows, size, length)
    A, before = -torch.rand(channels, size), torch.randn(rows, channels, size)
    D, bias = torch.randn(2, channels)

    def kernel(u: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        # Beside every state the kernel keeps what it decayed by.
        return u.clone(), torch.zeros(rows, channels, 2 * size)[..., 1::2]

    with Watching():
        scans.add_first_state(kernel)(inputs[0], inputs[1], A, B, C, D, inputs[2], bias, before)
    states = told.most / (before.numel() * before.element_size())
    assert 0.8 * scans.states_at_once(length, size) <= states <= 1.2 * scans.states_at_once(length, size)


@pytest.mark.parametrize("length", [3, 300])
def test_without_a_first_state_the_kernel_runs_once_and_with_one_twice(length: int) -> None:
    """Whatever the length: a launch costs more than the work of a short row."""
    calls: list[int] = []

    def counted(*args: Any, **options: Any) -> Any:
        calls.append(args[0].shape[-1])
        return kernel()(*args, **options)

    given_ = arguments(length)
    scans.add_first_state(counted)(*given_)
    assert calls == [length, 5 + length]
    calls.clear()
    nothing = [*given_[:-1], torch.zeros_like(given_[-1])]
    y, last = scans.add_first_state(counted)(*given_[:-1], None)
    assert calls == [length]
    assert error((y, last), by_hand(*nothing)) < 1e-11
