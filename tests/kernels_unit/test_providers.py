"""The table of providers: each row can be run, and what it says that it cannot do, it cannot."""

from __future__ import annotations

import json
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from scanproof.kernels.launches.launched import Launch
from scanproof.kernels.providers import hub
from scanproof.kernels.providers.provider import HubKernel, Provider
from scanproof.kernels.providers.provider_table import PROVIDERS
from scanproof.plugin.providers import find_lacking
from tests.support import provider_reasons

ROWS = [pytest.param(provider, id=f"{provider.operation}, {provider.title}") for provider in PROVIDERS]
INTERPRETED = [provider for provider in PROVIDERS if "interpreter" in provider.places]
REASONS = provider_reasons.list_reasons("cpu")
NO_RING = "it takes no cache_seqlens"
(STEP,) = [each for each in PROVIDERS if (each.operation, each.name) == ("causal_conv1d_update", "transformers.mamba")]


def test_a_title_stands_once_for_an_operation() -> None:
    assert Counter((provider.operation, provider.title) for provider in PROVIDERS).most_common(1)[0][1] == 1


@pytest.mark.parametrize("provider", ROWS)
def test_a_row_can_run_a_case_and_names_known_ones(provider: Provider) -> None:
    mine = provider_reasons.small_cases(provider)
    assert set(provider.known) <= {case.short_id for case in mine}
    assert any(provider.why_cannot(case) is None and provider.find_known(case) is None for case in mine)


@pytest.mark.parametrize(("provider", "reason"), REASONS)
def test_what_it_is_said_not_to_do_it_does_not(provider: Provider, reason: str) -> None:
    """In one case at least that it is kept from for this reason and no other it is wrong."""
    provider_reasons.check_reason(provider, reason)


def test_a_provider_that_is_called_wrongly_shows_no_reason() -> None:
    """As where a parameter has another name in a newer version."""
    with pytest.raises(TypeError, match="'inputs'"):
        provider_reasons.check_reason(replace(STEP, renames={"x": "inputs"}), NO_RING)


def test_a_provider_of_which_all_is_wrong_shows_no_reason() -> None:
    doubled = replace(STEP, renames={}, adapt=lambda step: lambda x, **same: 2 * step(x, **same))
    with pytest.raises(AssertionError, match="no other case that is wrong shows a reason"):
        provider_reasons.check_reason(doubled, NO_RING)


def test_only_an_argument_that_is_refused_excuses_a_wrong_call() -> None:
    ring = next(case for case in provider_reasons.small_cases(STEP) if STEP.why_cannot(case) == NO_RING)

    def misspelled(step: Any) -> Any:
        return lambda x, cache_seqlens=None, **same: step(x, **({"wieght": 1} if cache_seqlens is not None else same))

    def failing(step: Any) -> Any:
        return lambda x, **same: json.dumps(x)

    assert not provider_reasons.is_right(STEP, ring)
    with pytest.raises(TypeError, match="'wieght'"):
        provider_reasons.is_right(replace(STEP, renames={}, adapt=misspelled), ring)
    assert not provider_reasons.is_right(replace(STEP, renames={}, adapt=failing), ring), "its own error"


@pytest.mark.parametrize("provider", INTERPRETED, ids=lambda provider: f"{provider.operation}, {provider.title}")
def test_what_the_interpreter_runs_are_cases_that_it_can_run(provider: Provider) -> None:
    """Few of them, in float32 or bfloat16 or both, and every name is a case's."""
    mine = {case.short_id: case for case in provider_reasons.small_cases(provider)}
    chosen = [mine[name] for name in provider.interpreted]
    assert chosen
    assert all(provider.why_cannot(case) is None and "interpreter" in provider.places_of(case) for case in chosen)


def test_a_kernel_of_another_package_is_none_of_the_provider() -> None:
    provider = Provider(operation="causal_conv1d_fn", function="m:f", distribution="fla-core", kernels=("a_kernel",))
    fla = Launch(name="a_kernel", how="triton", count=1, module="fla")
    assert find_lacking(provider, [fla]) == []
    assert find_lacking(provider, [replace(fla, module="mamba_ssm")]) == ["a_kernel"]
    assert find_lacking(provider, [replace(fla, how="profiler")]) == ["a_kernel"]
    assert find_lacking(provider, []) == ["a_kernel"]


def test_where_a_kernel_of_the_hub_came_from_is_said_as_far_as_the_package_says_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """An older package `kernels` takes folders in place of a repository, but does not say that it did."""
    kernel, module, package = HubKernel("some/kernel", 2), ModuleType("kernel"), ModuleType("kernels")
    module.__file__ = str(tmp_path / "__init__.py")
    monkeypatch.setitem(sys.modules, "kernels", package)
    monkeypatch.setattr(hub, "load", lambda kernel: module)
    unknown = f"what was loaded from {tmp_path} (whether that is some/kernel, version 2 is not known)"
    assert hub.describe_origin(kernel) == unknown
    loaded = SimpleNamespace(module=module, repo_info=None)
    monkeypatch.setattr(package, "get_loaded_kernels", lambda: [loaded], raising=False)
    assert hub.describe_origin(kernel) == f"the folder {tmp_path} in place of some/kernel, version 2"
    loaded.repo_info = SimpleNamespace(repo_id="some/kernel", revision="abc")
    assert hub.describe_origin(kernel) == f"some/kernel, revision abc ({tmp_path})"
