"""Whether a provider cannot do what it is said not to do."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from scanproof.kernels import cases
from scanproof.kernels.cases import KernelCase
from scanproof.kernels.providers.provider import Provider
from scanproof.kernels.providers.provider_table import PROVIDERS
from tests.support.late import Late

if TYPE_CHECKING:
    from scanproof.kernels import compare, operation_table
    from scanproof.plugin import providers as of_sessions
else:
    compare, operation_table = Late("scanproof.kernels.compare"), Late("scanproof.kernels.operation_table")
    of_sessions = Late("scanproof.plugin.providers")

SMALL = tuple(case for case in cases.load() if case.on_cpu)


def list_reasons(place: str) -> list[Any]:
    """(provider, reason) for every reason of the providers that run in a place."""
    return [
        pytest.param(provider, reason, id=f"{provider.operation}, {provider.title}: {reason}")
        for provider in PROVIDERS
        if place in provider.places
        for reason in provider.cannot
    ]


def small_cases(provider: Provider) -> list[KernelCase]:
    return [case for case in SMALL if case.op == provider.operation]


def is_right(provider: Provider, case: KernelCase) -> bool:
    """Whether a provider's results of a case are right; an error of its own is none."""
    op = operation_table.find_operation(provider.operation)
    try:
        comparisons = compare.compare_case(op, case, of_sessions.load_provider(provider).function)
    except (compare.WrongResult, TypeError, ValueError, IndexError, ArithmeticError, RuntimeError, UserWarning):
        return False
    return all(comparison.passed for comparison in comparisons)


def check_reason(provider: Provider, reason: str) -> None:
    """In one case at least that it is kept from for this reason and no other it has to be wrong."""
    alone = [
        case
        for case in small_cases(provider)
        if [why for why, applies in provider.cannot.items() if applies(case)] == [reason]
    ]
    assert alone, "no case shows it"
    assert not all(is_right(provider, case) for case in alone)
