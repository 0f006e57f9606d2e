"""A whole hybrid goes on from its cache: attention's keys and the states of its scans, through what a server does.

Each property is asked of the shipped stand-ins and of transformers' own hybrids, on the CPU in float64 and float32; of
the stand-ins on a GPU with the installed kernels too.  Expected is always what the model says of the whole sequence,
read at once without a cache.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import pytest

from scanproof.plugin.kernel_fixtures import Kernels, Proven, RequirePackages
from tests.support.forward_kernels import list_forward_kernels
from tests.support.hybrid_caches import Held, Server
from tests.support.hybrid_properties import PROPERTIES, WrongLogits, assert_near
from tests.support.hybrids import HYBRIDS, LIMITED, Hybrid
from tests.support.late import Late

if TYPE_CHECKING:
    import torch
    import transformers
    from torch import Tensor

    from scanproof.kernels import divergence
    from scanproof.models.mamba_in_llama import cache as llama_cache
    from scanproof.models.mamba_in_llama import mixers
else:
    torch, transformers, divergence = Late("torch"), Late("transformers"), Late("scanproof.kernels.divergence")
    llama_cache, mixers = (Late(f"scanproof.models.mamba_in_llama.{name}") for name in ("cache", "mixers"))


def parameters(hybrids: Sequence[Hybrid]) -> list[Any]:
    """Property and hybrid; what is known to be wrong is a strict xfail that takes wrong logits only."""

    def list_marks(name: str, hybrid: Hybrid) -> list[pytest.MarkDecorator]:
        if name not in hybrid.known:
            return []
        because = f"{hybrid.known[name].because} (docs/defects.md)"
        return [pytest.mark.xfail(raises=WrongLogits, strict=True, reason=because)]

    return [
        pytest.param(name, hybrid, id=f"{hybrid}-{name}".replace(" ", "_"), marks=list_marks(name, hybrid))
        for hybrid in hybrids
        for name in PROPERTIES
        if name not in hybrid.cannot
    ]


STAND_INS = [hybrid for hybrid in HYBRIDS if hybrid.name.endswith("-tiny")]


@pytest.mark.parametrize(("name", "hybrid"), parameters(STAND_INS))
def test_a_stand_in_goes_on_from_its_cache_in_float32(name: str, hybrid: Hybrid) -> None:
    with torch.no_grad():
        assert_near(PROPERTIES[name](Server(hybrid, "float32", "cpu")), "float32", most=hybrid.most(name))


@pytest.mark.parametrize(("name", "hybrid"), parameters(HYBRIDS))
def test_a_hybrid_goes_on_from_its_cache(name: str, hybrid: Hybrid) -> None:
    with torch.no_grad():
        assert_near(PROPERTIES[name](Server(hybrid, "float64", "cpu")), "float64", most=hybrid.most(name))


@pytest.mark.parametrize(("name", "hybrid"), [each for each in parameters(LIMITED) if each.values[0] == "steps"])
def test_steps_of_a_hybrid_that_limits_step_sizes(name: str, hybrid: Hybrid) -> None:
    with torch.no_grad():
        assert_near(PROPERTIES[name](Server(hybrid, "float64", "cpu")), "float64", most=hybrid.most(name))


@pytest.mark.parametrize("wrong", [20.0, float("nan")])
def test_what_is_further_off_than_what_is_known_fails(wrong: float) -> None:
    """An expected failure takes WrongLogits only."""
    compared = [("crop", torch.zeros(1, 1, 2), torch.tensor([[[0.0, wrong]]]))]
    with pytest.raises(AssertionError, match=r"more than what is known, 5\.0 nats: .*crop"):
        assert_near(compared, "float32", most=5.0)
    with pytest.raises(WrongLogits):
        assert_near(compared, "float32")


REFUSED = [(name, each) for each in HYBRIDS if each.keeps != "values" for name in each.cannot]
SAYS = {"crop": "a Mamba state cannot go back", "selected": "has no attribute 'batch_select_indices'"}
"""Property -> words of the error, so that no other one is taken for it."""


@pytest.mark.parametrize(("name", "hybrid"), REFUSED, ids=str)
def test_what_a_cache_cannot_do_it_refuses(name: str, hybrid: Hybrid) -> None:
    with torch.no_grad(), pytest.raises((AttributeError, NotImplementedError), match=SAYS[name]):
        PROPERTIES[name](Server(hybrid, "float32", "cpu"))


def forget_window(patch: pytest.MonkeyPatch) -> None:
    """Each step begins with a convolution that has seen nothing."""
    step = mixers.GroupedMamba2._step

    def wrong(self: Any, hidden: Tensor, state: Any) -> Tensor:
        state.conv = torch.zeros_like(state.conv)
        return step(self, hidden, state)

    patch.setattr(mixers.GroupedMamba2, "_step", wrong)


def share_copies(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Server, "copied", lambda self, held: held)


def leave_states(patch: pytest.MonkeyPatch) -> None:
    """Rows are moved, and the states of their scans are not."""
    patch.setattr(llama_cache.HybridCache, "_change_states", lambda self, change: None)


def show_tenants(patch: pytest.MonkeyPatch) -> None:
    """What a former tenant left in places before a row is not hidden."""
    patch.setattr(Held, "hides", lambda self: torch.zeros(len(self.lengths), self.longest, dtype=torch.bool))


def keep_states(patch: pytest.MonkeyPatch) -> None:
    """A cache that is reset keeps the states of its scans."""
    reset_keys = transformers.DynamicCache.reset

    def wrong(self: Any) -> None:
        reset_keys(self)
        self.seen = 0

    patch.setattr(llama_cache.HybridCache, "reset", wrong)


def ignore_padding(patch: pytest.MonkeyPatch) -> None:
    patch.setattr("scanproof.models.mamba_in_llama.model.find_padding", lambda mask, length: None)


FAULTS: dict[str, Callable[[pytest.MonkeyPatch], None]] = {
    "split": forget_window, "steps": forget_window, "copied": share_copies, "moved": leave_states,
    "evicted": leave_states, "different lengths": show_tenants, "reset": keep_states, "rollback": share_copies,
    "left padding": ignore_padding, "padded step": ignore_padding, "selected": leave_states,
}  # fmt: skip


@pytest.mark.parametrize("name", FAULTS)
def test_a_property_sees_its_fault(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    hybrid = next(each for each in HYBRIDS if each.name == "mamba2-hybrid-tiny")
    FAULTS[name](monkeypatch)
    with torch.no_grad(), pytest.raises(WrongLogits):
        assert_near(PROPERTIES[name](Server(hybrid, "float64", "cpu")), "float64")


ON_GPU = [hybrid for hybrid in HYBRIDS if hybrid.operations]


@pytest.mark.gpu
@pytest.mark.parametrize("scanproof_place", ["gpu"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("hybrid", ON_GPU, ids=str)
def test_a_hybrid_goes_on_from_its_cache_with_kernels(
    hybrid: Hybrid,
    dtype: str,
    scanproof_kernels: Kernels,
    scanproof_require_packages: RequirePackages,
    scanproof_proven: Proven,
) -> None:
    """Every property in one test, so that the kernels of a prefill and of a step have to be launched in it."""
    scanproof_require_packages("mamba_ssm", "causal_conv1d")
    server = Server(hybrid, dtype, scanproof_kernels.device)
    asked = [name for name in PROPERTIES if name not in hybrid.cannot and name not in hybrid.known]
    with torch.no_grad(), scanproof_proven(hybrid.name, list_forward_kernels(*hybrid.operations)):
        compared = [(f"{name}: {what}", a, b) for name in asked for what, a, b in PROPERTIES[name](server)]
    try:
        assert_near(compared, dtype, tf32=dtype == "float32")
    except WrongLogits as wrong:
        pytest.fail(str(wrong), pytrace=False)
