"""A whole model computes the same distributions at once, in pieces and step by step.

The text is sampled from the model itself: no tokenizer is needed where kernels are interpreted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING, Any
from unittest import mock

import pytest

from scanproof.embedded import MIRROR
from scanproof.plugin.kernel_fixtures import CannotRun, Kernels, Proven, RequirePackages
from scanproof.plugin.kernel_parameters import MARKS
from tests.support.forward_kernels import list_forward_kernels
from tests.support.late import Late

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from scanproof.kernels import divergence
    from scanproof.models import attention, layers, loading, states
    from scanproof.models.against_float64 import decoding, whole_model
else:
    torch = Late("torch")
    divergence, attention = Late("scanproof.kernels.divergence"), Late("scanproof.models.attention")
    decoding, whole_model = (
        Late("scanproof.models.against_float64.decoding"),
        Late("scanproof.models.against_float64.whole_model"),
    )
    layers, loading, states = (Late(f"scanproof.models.{name}") for name in ("layers", "loading", "states"))

STAND_INS = ("mamba1-tiny", "mamba2-tiny", "mamba2attn-tiny")
DTYPES = ("float32", "float16", "bfloat16")
Record = Callable[[str, object], None]
Fault = Callable[[pytest.MonkeyPatch], None]


def stand_in(name: str, dtype: str) -> Any:
    return loading.load(MIRROR / "scanproof" / name, getattr(torch, dtype))


@cache
def text(name: str, rows: int, length: int) -> Tensor:
    """(rows, length) token ids, sampled from the stand-in in float64."""
    model, generator = stand_in(name, "float64"), torch.Generator().manual_seed(0)
    tokens, state = torch.zeros(rows, 1, dtype=torch.long), model.initial_state(rows)
    with torch.no_grad():
        for _ in range(length - 1):
            output = model(tokens[:, -1:], state)
            state = output.state
            following = torch.multinomial(output.logits[:, -1].softmax(dim=-1), 1, generator=generator)
            tokens = torch.cat([tokens, following], dim=1)
    return tokens


def excess(name: str, expected: Tensor, got: Tensor, record: Record, dtype: str, tf32: bool = False) -> str:
    """A line when `got` is above the bar; both figures go into the record."""
    found = divergence.kl_divergence(expected, got)
    record(f"mean KL: {name}", found.mean)
    record(f"worst KL: {name}", found.worst)
    above = found.excess(dtype, tf32)
    return f"{name}: {above}\n" if above else ""


def reference_disagrees(name: str, dtype: str, tokens: Tensor, record: Record) -> str:
    """The reference's prefill in one piece against chunks and steps: what is above the bar."""
    model = stand_in(name, dtype)
    ways = {"chunks": [1, 2, 19, 16, 32], "prefill of 21, then steps": [21] + [1] * 49, "steps": [1] * 70}
    with torch.no_grad():
        whole = model(tokens).logits
        cut = {way: decoding.run_in_pieces(model, tokens, lengths)[0] for way, lengths in ways.items()}
    return "".join(excess(way, whole, logits, record, dtype) for way, logits in cut.items())


@pytest.mark.parametrize("name", STAND_INS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_prefill_and_decode_of_the_reference(name: str, dtype: str, record_property: Record) -> None:
    assert not reference_disagrees(name, dtype, text(name, 2, 70), record_property)


def forgotten_window(patch: pytest.MonkeyPatch) -> None:
    patch.setattr("scanproof.models.layers.cut_window", lambda before, x: torch.zeros_like(before))


def window_after_the_convolution(patch: pytest.MonkeyPatch) -> None:
    convolve = layers.convolve

    def wrong(conv: Any, x: Tensor, before: Tensor | None, activation: str | None = None) -> Any:
        y, after = convolve(conv, x, before, activation)
        return y, None if before is None or after is None else layers.cut_window(before, y)

    patch.setattr("scanproof.models.layers.convolve", wrong)
    patch.setattr("scanproof.models.attention.convolve", wrong)


def forgotten_scan_state(patch: pytest.MonkeyPatch) -> None:
    for operation in ("selective_scan", "ssd"):
        call = getattr(layers, operation)

        def wrong(*args: Any, call: Any = call, initial_state: Any = None, **kwargs: Any) -> Any:
            return call(*args, **kwargs)

        patch.setattr(f"scanproof.models.layers.{operation}", wrong)


def rotated_one_too_far(patch: pytest.MonkeyPatch) -> None:
    rotate: Any = layers.rotate

    def wrong(*args: Any, start: int = 0) -> Any:
        return rotate(*args, start=start + 1 if start else 0)

    patch.setattr("scanproof.models.attention.rotate", wrong)


def key_0_only(patch: pytest.MonkeyPatch) -> None:
    attend = attention.Attention._attend
    patch.setattr("scanproof.models.attention.Attention._attend", lambda self, q, k, v, seen: attend(self, q, k, v, 0))


FAULTS: list[tuple[str, Fault, str]] = [
    *(
        (name, fault, dtype)
        for name in STAND_INS
        for fault in (forgotten_window, window_after_the_convolution, forgotten_scan_state)
        for dtype in DTYPES
    ),
    *(("mamba2attn-tiny", key_0_only, dtype) for dtype in DTYPES),
    # Its effect on a stand-in is smaller than what halves may lose.
    ("mamba2attn-tiny", rotated_one_too_far, "float32"),
]


@pytest.mark.parametrize(("name", "fault", "dtype"), FAULTS)
def test_a_fault_in_what_is_carried_is_above_the_bar(
    name: str, fault: Fault, dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokens, found = text(name, 2, 70), dict[str, object]()
    with monkeypatch.context() as patch:
        fault(patch)
        above = reference_disagrees(name, dtype, tokens, found.__setitem__)
    assert all(way in above for way in ("chunks:", "prefill of 21, then steps:", "steps:")), found


@pytest.mark.parametrize(
    ("name", "part"),
    [*((name, part) for name in STAND_INS for part in ("conv", "ssm")), ("mamba2attn-tiny", "keys")],
)
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_state_dropped_at_one_boundary_is_above_the_bar(name: str, part: str, dtype: str) -> None:
    model, tokens = stand_in(name, dtype), text(name, 2, 70)
    with torch.no_grad():
        before, state = decoding.run_in_pieces(model, tokens[:, :21], [21])
        spoilt: list[Any] = [
            replace(layer, **{part: torch.zeros_like(getattr(layer, part))}) if hasattr(layer, part) else layer
            for layer in list[Any](state.layers)
        ]
        after, _ = decoding.run_in_pieces(model, tokens[:, 21:], [1] * 49, states.State(tuple(spoilt)))
        got, whole = torch.cat([before, after], dim=1), model(tokens).logits
    assert divergence.kl_divergence(whole, got).excess(dtype)


PLACES = [
    *(("interpreter", name, dtype) for name in STAND_INS for dtype in DTYPES),
    *(("gpu", name, dtype) for name in STAND_INS for dtype in DTYPES),
]
NOT_RUN = {
    ("interpreter", "mamba2attn-tiny"): "mamba_ssm's MHA takes its rotary embedding from flash-attn, which needs a GPU",
    ("gpu", "mamba2attn-tiny", "float32"): "flash-attn's decode takes float16 and bfloat16 only",
}
CALLED = {
    "mamba1-tiny": ("mamba_inner_fn", "selective_scan_fn"),
    "mamba2-tiny": ("mamba_split_conv1d_scan_combined", "mamba_chunk_scan_combined"),
    "mamba2attn-tiny": ("mamba_split_conv1d_scan_combined", "mamba_chunk_scan_combined", "flash_attn_with_kvcache"),
}
"""Stand-in -> operations that its prefill and decode call, beside those of every decode step."""
STEP = ("causal_conv1d_update", "selective_state_update")
SIZES = {"interpreter": (1, 24, 17), "gpu": (4, 256, 150)}
"""Place -> rows, length, and tokens of the prefill; the stand-ins' chunks are 16."""


@contextmanager
def dense_projections(place: str) -> Iterator[None]:
    """Let Mamba2 prefill a cache on a GPU with four heads, as the stand-ins have.

    It hands causal_conv1d a slice of its projection, which causal_conv1d refuses unless it is a multiple of 8 wide;
    here it is 324.  Its fused path copies such a slice (`ensure_stride`), and so does this.
    """
    if place != "gpu":
        yield
        return
    from mamba_ssm.modules import mamba2

    convolve = mamba2.causal_conv1d_fn

    def dense(x: Tensor, *args: Any, **kwargs: Any) -> Any:
        return convolve(x.mT.clone(memory_format=torch.contiguous_format).mT, *args, **kwargs)

    with mock.patch.object(mamba2, "causal_conv1d_fn", dense):
        yield


def mamba_ssm_disagrees(place: str, device: str, name: str, dtype: str, record: Record) -> str:
    """mamba_ssm's prefill, its decode and the float64 reference: what is above the bar."""
    rows, length, prefill = SIZES[place]
    tokens = text(name, rows, length)
    model = whole_model.load_kernel_model(MIRROR / "scanproof" / name, getattr(torch, dtype), torch.device(device))
    with torch.no_grad(), dense_projections(place):
        expected = stand_in(name, "float64")(tokens).logits
        if (place, name) == ("interpreter", "mamba1-tiny"):
            # The scan of a prefill is a CUDA extension; the decode step is a Triton kernel.
            steps = whole_model.decode(model, tokens.to(device), prefill=0)
            return excess("mamba_ssm's steps, float64", expected, steps, record, dtype)
        whole = model(tokens.to(device)).logits.cpu()
        decoded = whole_model.decode(model, tokens.to(device), prefill).cpu()
    tf32 = dtype == "float32" and place == "gpu"
    return (
        excess("mamba_ssm's prefill, its decode", whole, decoded, record, dtype, tf32)
        + excess("mamba_ssm's prefill, float64", expected, whole, record, dtype, tf32)
        + excess("mamba_ssm's decode, float64", expected, decoded, record, dtype, tf32)
    )


@pytest.mark.parametrize(
    ("scanproof_place", "name", "dtype"),
    [pytest.param(*each, id="-".join(reversed(each)), marks=MARKS[each[0]]) for each in PLACES],
)
def test_prefill_and_decode_of_mamba_ssm(
    scanproof_place: str,
    name: str,
    dtype: str,
    scanproof_kernels: Kernels,
    scanproof_cannot_run: CannotRun,
    scanproof_require_packages: RequirePackages,
    scanproof_proven: Proven,
    record_property: Record,
) -> None:
    if reason := NOT_RUN.get((scanproof_place, name), NOT_RUN.get((scanproof_place, name, dtype))):
        scanproof_cannot_run(reason)
    flash_attn = ["flash_attn"] if name == "mamba2attn-tiny" else []
    scanproof_require_packages("mamba_ssm", "causal_conv1d", *flash_attn)
    with scanproof_proven(name, list_forward_kernels(*CALLED[name], *STEP)):
        above = mamba_ssm_disagrees(scanproof_place, scanproof_kernels.device, name, dtype, record_property)
    if above:
        pytest.fail(above, pytrace=False)


@pytest.mark.interpreted
@pytest.mark.parametrize("part", ["conv_state", "ssm_state"])
@pytest.mark.parametrize("scanproof_place", ["interpreter"])
def test_a_state_that_mamba_ssm_drops_is_above_the_bar(
    scanproof_kernels: Kernels, part: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mamba_ssm.modules.mamba2 import Mamba2

    step = Mamba2.step

    def wrong(self: Any, hidden_states: Any, conv_state: Any, ssm_state: Any) -> Any:
        (conv_state if part == "conv_state" else ssm_state).zero_()
        return step(self, hidden_states, conv_state, ssm_state)

    monkeypatch.setattr(Mamba2, "step", wrong)
    above = mamba_ssm_disagrees("interpreter", scanproof_kernels.device, "mamba2-tiny", "bfloat16", lambda *_: None)
    assert "mamba_ssm's prefill, its decode: KL" in above
    assert "mamba_ssm's prefill, float64" not in above
