"""Providers that are named from outside: `selective_scan_fn=mypkg.ops:scan`."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from pydantic import ValidationError

from scanproof.kernels.cases import KernelCase, suggest_nearest
from scanproof.kernels.known import KnownForm
from scanproof.kernels.launches import kernel_table
from scanproof.kernels.providers import hub_table
from scanproof.kernels.providers.provider import NoProvider, Provider, find_attribute

NAME = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")
HOW = "write OPERATION=MODULE:FUNCTION, such as selective_scan_fn=mypkg.ops:scan, or OPERATION=hub"


@dataclass(frozen=True)
class Named:
    """An operation and what is named for it, not imported yet."""

    operation: str
    function: str
    """`module:attribute` of a function or of a `Provider`; `hub`: the kernel of Hugging Face's hub."""

    def __str__(self) -> str:
        return f"{self.operation}={self.function}"


def parse(text: str) -> tuple[Named, ...]:
    """Read names that stand between spaces or commas; imports nothing.

    Raises:
        NoProvider: one is no name, its operation is not known, or an operation is named twice.
    """
    named: dict[str, Named] = {}
    for part in re.split(r"[\s,]+", text.strip()):
        operation, equals, function = part.partition("=")
        if not (equals and (function == hub_table.NAME or NAME.fullmatch(function))):
            raise NoProvider(f"{part!r} names no provider; {HOW}")
        known = [row.name for row in kernel_table.OPERATIONS]
        if operation not in known:
            raise NoProvider(f"{part}: there is no operation {operation}{suggest_nearest(operation, known)}")
        if function == hub_table.NAME and hub_table.find_row(operation) is None:
            there = ", ".join(row.operation for row in hub_table.HUB)
            raise NoProvider(f"{part}: there is no kernel of the hub for {operation}; there are for {there}")
        if operation in named:
            raise NoProvider(f"{part}: {named[operation]} is named already; name one provider for an operation")
        named[operation] = Named(operation, function)
    return tuple(named.values())


def resolve(named: Named, cases: Iterable[KernelCase]) -> Provider:
    """Import what is named, and see that it takes what the cases pass.

    Args:
        cases: all cases of the operation.

    Raises:
        NoProvider: it is not there, is not to be called, is another operation's, lacks an argument, or its `known` is
            wrong.
    """
    try:
        row = hub_table.find_row(named.operation) if named.function == hub_table.NAME else None
        target = row or find_attribute(named.function)
        plain = Provider(operation=named.operation, function=named.function)
        provider = target if isinstance(target, Provider) else plain
        if provider.operation != named.operation:
            raise NoProvider(f"that provider is of {provider.operation}; write {provider.operation}={named.function}")
        provider = replace(provider, name=provider.name or named.function)
        function = provider.load()
        if not callable(function):
            raise NoProvider(f"{provider.function} is {type(function).__name__}, and not to be called")
        call = function if provider.adapt is None else provider.adapt(function)
        cases = tuple(cases)
        check_known(provider, cases)
        check_arguments(call, provider, [case for case in cases if provider.why_cannot(case) is None])
    except NoProvider as error:
        raise NoProvider(f"{named}: {error}") from error
    return provider


def check_known(provider: Provider, cases: Iterable[KernelCase]) -> None:
    """Check a provider's `known`: each entry is of a case that exists, and names a result with a bound.

    Raises:
        NoProvider: an entry is wrong; the message names its case.
    """
    by_name = {case.short_id: case for case in cases}
    for name, known in provider.known.items():
        if name not in by_name:
            raise NoProvider(f"known: {provider.operation} has no case {name}")
        try:
            form = KnownForm(
                because=known.because, rms=dict(known.rms), times=dict(known.times), wraps=known.wraps,
                unwritten=list(known.unwritten),
            )  # fmt: skip
        except ValidationError as error:
            first = error.errors()[0]
            place = ": ".join(map(str, first["loc"]))
            raise NoProvider(f"known: {name}: {place}: {first['msg']}") from error
        if mistake := form.find_mistake(raises=False, alone=by_name[name].alone):
            raise NoProvider(f"known: {name}: {mistake}")


def check_arguments(call: Any, provider: Provider, cases: Iterable[KernelCase]) -> None:
    """See that a call takes every argument that a case passes.

    Raises:
        NoProvider: it does not; the message says which, and which case passes them.
    """
    from scanproof.kernels import operation_table

    try:
        parameters = inspect.signature(call).parameters
    except (TypeError, ValueError):
        # Nothing is known of it until it is called.
        return
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        return
    taken = {name for name, parameter in parameters.items() if parameter.kind is not parameter.POSITIONAL_ONLY}
    arguments = operation_table.find_operation(provider.operation).arguments
    required = [argument.name for argument in arguments if not argument.optional]
    lacking: dict[str, str] = {}
    for case in cases:
        for name in (*required, *sorted(case.given), *case.options):
            if provider.renames.get(name, name) not in taken:
                lacking.setdefault(name, case.id)
    if lacking:
        name, case_id = next(iter(lacking.items()))
        raise NoProvider(
            f"{describe(call)} takes no argument {', '.join(lacking)} ({case_id} passes {name}). Give it these "
            "arguments, or name a scanproof.kernels.providers.provider.Provider that renames them or says what it "
            "cannot do"
        )


def describe(call: Any) -> str:
    """Name of a function, with its file and line where they are known."""
    name = getattr(call, "__qualname__", None) or type(call).__qualname__
    code = getattr(inspect.unwrap(call), "__code__", None)
    return f"{name} ({code.co_filename}:{code.co_firstlineno})" if code is not None else str(name)
