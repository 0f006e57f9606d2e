"""Whether a provider cannot do what it is said not to do."""

from __future__ import annotations

import math
import traceback
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
CONTROLLED: list[Provider] = []
"""The providers that are known to be called rightly."""
OURS = "scanproof.", "tests."


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
    """Whether a provider's results of a case are right.  It may raise, but not because we call it wrongly."""
    try:
        return does_case(provider, case)
    except TypeError as error:
        if is_raised_here(error) and not names_refused_argument(provider, case, error):
            raise
    except (compare.WrongResult, ValueError, IndexError, ArithmeticError, RuntimeError, UserWarning):
        pass
    return False


def does_case(provider: Provider, case: KernelCase) -> bool:
    op = operation_table.find_operation(provider.operation)
    comparisons = compare.compare_case(op, case, of_sessions.load_provider(provider).function)
    return all(comparison.passed for comparison in comparisons)


def is_raised_here(error: TypeError) -> bool:
    """Whether our own code raised it, as Python has it where a function is called with arguments that it lacks."""
    *_, (last, _) = traceback.walk_tb(error.__traceback__)
    return str(last.f_globals.get("__name__")).startswith(OURS)


def names_refused_argument(provider: Provider, case: KernelCase, error: TypeError) -> bool:
    """Whether it names an argument that this case alone passes, or lacks, of all that the provider is said to do."""
    done = [names_passed(other) for other in small_cases(provider) if provider.why_cannot(other) is None]
    own = names_passed(case)
    differing = own.difference(*done) | (set.intersection(*done) - own)
    return any(f"'{provider.renames.get(name, name)}'" in str(error) for name in differing)


def names_passed(case: KernelCase) -> set[str]:
    """The arguments that a case passes, but for those that all cases do."""
    return {*case.given, *case.options}


def check_control(provider: Provider) -> None:
    """The smallest case that it is said to do is right: otherwise all would be wrong if we called it wrongly.

    Raises what the provider raises.
    """
    if any(provider is controlled for controlled in CONTROLLED):
        return
    done = [case for case in small_cases(provider) if {"cpu", "interpreter"} & {*provider.places_of(case)}]
    done = [case for case in done if provider.why_cannot(case) is None and provider.find_known(case) is None]
    # Of no elements every result is right.
    smallest = min(filter(size_of, done), key=size_of)
    assert does_case(provider, smallest), f"{smallest.id} is wrong: no other case that is wrong shows a reason"
    CONTROLLED.append(provider)


def size_of(case: KernelCase) -> int:
    return math.prod(case.sizes.values())


def check_reason(provider: Provider, reason: str) -> None:
    """In one case at least that it is kept from for this reason and no other it has to be wrong."""
    check_control(provider)
    alone = [
        case
        for case in small_cases(provider)
        if [why for why, applies in provider.cannot.items() if applies(case)] == [reason]
    ]
    assert alone, "no case shows it"
    assert not all(is_right(provider, case) for case in alone)
