"""The fast path of a module equals its slow path, and both equal its decode steps: each against float64."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

from scanproof.kernels.known import KnownDefect
from scanproof.models.against_float64.module_cases import MODULES, WAYS, Module
from scanproof.plugin.kernel_fixtures import CannotRun, Kernels, Proven, RequirePackages
from scanproof.plugin.kernel_parameters import MARKS, fail_as_wrong, known_miss
from tests.support.forward_kernels import list_forward_kernels
from tests.support.late import Late

if TYPE_CHECKING:
    import torch

    from scanproof.models import language_model
    from scanproof.models.against_float64 import modules
else:
    torch, modules = Late("torch"), Late("scanproof.models.against_float64.modules")
    language_model = Late("scanproof.models.language_model")

DTYPES = ("float32", "float16", "bfloat16")
CASES = [
    pytest.param(
        module, way,
        id=f"{module.name}-{way}",
        marks=[known_miss(module.known[way].because)] if way in module.known else [],
    )
    for module in MODULES
    for way in WAYS
]  # fmt: skip
PLACES = [pytest.param(place, marks=mark) for place, mark in MARKS.items()]
Judge = Callable[..., None]


@pytest.fixture
def judge(
    scanproof_kernels: Kernels,
    scanproof_require_packages: RequirePackages,
    scanproof_proven: Proven,
    record_property: Callable[[str, object], None],
    request: pytest.FixtureRequest,
) -> Judge:
    """Makes a comparison, whose operations have to be launched, and fails with it when it did not pass."""

    def compare(
        name: str, operations: tuple[str, ...], make: Callable[[], Any], known: KnownDefect | None = None
    ) -> None:
        scanproof_require_packages("mamba_ssm", "causal_conv1d")
        with scanproof_proven(name, list_forward_kernels(*operations)):
            found = make()
        record_property(f"rms error: {found.result}", found.error.rms)
        record_property(f"rms error of the PyTorch form: {found.result}", found.form.rms)
        if not found.passed:
            fail_as_wrong(request.node, str(found), [found], known)

    return compare


def comparison(module: Module, dtype: str, way: str, device: str) -> Any:
    made, exact = modules.make_pair(module, dtype, device, way)
    got = modules.run_module(made, modules.draw_input(dtype).to(device), way)
    return modules.compare_way(module, dtype, way, exact, got, device)


@pytest.mark.parametrize("scanproof_place", PLACES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("module", "way"), CASES)
def test_every_way_through_a_module_is_as_near_to_float64(
    module: Module,
    way: str,
    dtype: str,
    scanproof_kernels: Kernels,
    scanproof_cannot_run: CannotRun,
    judge: Judge,
) -> None:
    if reason := module.why_not(way, scanproof_kernels.place):
        scanproof_cannot_run(reason)
    judge(
        f"{module.name}, {way}",
        module.operations(way),
        lambda: comparison(module, dtype, way, scanproof_kernels.device),
        module.known.get(way),
    )


@pytest.mark.parametrize("scanproof_place", PLACES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("fused", [True, False], ids=["fused", "unfused"])
def test_a_block_is_as_near_to_float64_with_and_without_fusion(
    fused: bool, dtype: str, scanproof_kernels: Kernels, judge: Judge
) -> None:
    operations = ("mamba_split_conv1d_scan_combined", "rms_norm_fn")
    judge("block", operations, lambda: modules.compare_block(fused, dtype, scanproof_kernels.device))


@pytest.mark.interpreted
@pytest.mark.parametrize("scanproof_place", ["interpreter"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_fast_path_that_doubles_the_bias_is_found(
    dtype: str, scanproof_kernels: Kernels, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mamba_ssm.modules import mamba2

    fused = mamba2.mamba_split_conv1d_scan_combined

    def wrong(zxbcdt: Any, weight: Any, bias: Any, dt_bias: Any, *args: Any, **kwargs: Any) -> Any:
        return fused(zxbcdt, weight, bias, 2 * dt_bias, *args, **kwargs)

    monkeypatch.setattr(mamba2, "mamba_split_conv1d_scan_combined", wrong)
    module = next(each for each in MODULES if each.name == "mamba2")
    assert not comparison(module, dtype, "fast path", scanproof_kernels.device).passed
    assert comparison(module, dtype, "slow path", scanproof_kernels.device).passed


def with_changed(module: Module, dtype: str, name: str, change: Callable[[Any], Any]) -> Any:
    """A mixer of the given dtype with one weight changed, and the float64 mixer with the weights as they were."""
    exact = modules.make_exact_mixer(module)
    rough = language_model.make_mixer(module.layer, modules.D_MODEL, getattr(torch, dtype), dict(module.settings))
    rough.load_state_dict(exact.state_dict())
    exact.load_state_dict(rough.state_dict())
    with torch.no_grad():
        weight = rough.get_parameter(name)
        weight.copy_(change(weight))
    return rough, exact


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.name)
def test_the_criterion_on_a_mixer_of_our_own(module: Module, way: str, dtype: str) -> None:
    """It passes as it is, and not with a bias of the step sizes that is added twice or a skip that is left out."""
    bias = "dt_proj.bias" if module.layer == "Mamba1" else "dt_bias"
    changes: dict[str, tuple[str, Callable[[Any], Any], bool]] = {
        "as it is": ("D", lambda D: D, True),
        "bias twice": (bias, lambda weight: 2 * weight, False),
        "no skip": ("D", lambda D: 0 * D, False),
    }
    for what, (name, change, passes) in changes.items():
        rough, exact = with_changed(module, dtype, name, change)
        got = modules.run_mixer(rough, modules.draw_input(dtype), way)
        assert modules.compare_way(module, dtype, way, exact, got, "cpu").passed is passes, what
