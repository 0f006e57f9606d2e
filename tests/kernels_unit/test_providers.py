"""The table of providers: each row can be run, and what it says that it cannot do, it cannot."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest

from scanproof.kernels.launches.launched import Launch
from scanproof.kernels.providers.provider import Provider
from scanproof.kernels.providers.provider_table import PROVIDERS
from scanproof.plugin.providers import find_lacking
from tests.support import provider_reasons

ROWS = [pytest.param(provider, id=f"{provider.operation}, {provider.title}") for provider in PROVIDERS]
INTERPRETED = [provider for provider in PROVIDERS if "interpreter" in provider.places]
REASONS = provider_reasons.list_reasons("cpu")


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
