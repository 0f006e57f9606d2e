"""One implementation of an operation, as data: where its function is, how it is called, what it cannot do.

Imports no torch: pytest reads the rows while it collects tests.
"""

from __future__ import annotations

import importlib
import inspect
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from scanproof.kernels.cases import KernelCase
from scanproof.kernels.known import KnownDefect

Call = Callable[..., Any]
Condition = Callable[[KernelCase], bool]


class NoProvider(Exception):
    """A provider's function is not there; the message says what is wrong with its name, or what is not installed."""


@dataclass(frozen=True)
class HubKernel:
    """A kernel of Hugging Face's hub."""

    repository: str
    version: int

    def __str__(self) -> str:
        return f"{self.repository}, version {self.version}"


@dataclass(frozen=True, kw_only=True, repr=False)
class Provider:
    """One implementation of one operation.

    A kernel author whose function has other names of arguments, or cannot do everything, writes such a row too and
    names it in place of the function: `--scanproof-provider selective_scan_fn=mypkg.rows:SCAN`.
    """

    operation: str
    """Name of a row of `operation_table`."""
    function: str
    """`module:attribute` of what computes: a function, or a class of torch's modules that `adapt` makes."""
    hub: HubKernel | None = None
    """The kernel of the hub that has the function; `function` is then the attribute alone."""
    name: str = ""
    """As tests and tables call it; empty: as its function is called."""
    distribution: str = ""
    """Distribution that contains it; empty: not known."""
    renames: Mapping[str, str] = field(default_factory=dict)
    """Argument of the operation -> what the function calls it."""
    adapt: Callable[[Any], Call] | None = None
    """From what `function` names to a call with the operation's arguments, by name, that returns its results in order;
    None: the function is called with them as they are.  Applied before `renames`."""
    cannot: Mapping[str, Condition] = field(default_factory=dict)
    """Reason -> whether it keeps a case from being run: the case is skipped with that reason, strict or not."""
    known: Mapping[str, KnownDefect] = field(default_factory=dict)
    """`name-dtype` of a case -> what it is known to get wrong there, and how far off at most.  That is a strict
    expected failure, also where the case is one of those that it cannot run."""
    unwrap: bool = False
    """Take off decorators, which may put another package's kernel in the function's place."""
    places: tuple[str, ...] = ("cpu", "gpu")
    """`cpu`: tensors on the CPU; `interpreter`: its Triton kernels in Triton's interpreter; `gpu`."""
    interpreted: tuple[str, ...] = ()
    """`name-dtype` of the cases that Triton's interpreter runs: a few, since a call that is watched takes seconds."""
    tuned: bool = False
    """Its kernels have a Triton autotuner: none of its cases is `quick`."""
    kernels: tuple[str, ...] = ()
    """Triton kernels of its distribution that each case has to launch; empty: not known."""

    def __repr__(self) -> str:
        # pytest-benchmark writes the repr of a test's parameters into its JSON.
        return self.title

    @property
    def title(self) -> str:
        return self.name or self.function

    def places_of(self, case: KernelCase) -> tuple[str, ...]:
        """Where it runs a case."""
        interpreted = ("interpreter",) if case.short_id in self.interpreted else ()
        return tuple(place for place in (*case.places, *interpreted) if place in self.places)

    def why_cannot(self, case: KernelCase) -> str | None:
        """Why it cannot run a case; None where it can, or should."""
        if self.find_known(case) is not None:
            return None
        return next((reason for reason, applies in self.cannot.items() if applies(case)), None)

    def find_known(self, case: KernelCase) -> KnownDefect | None:
        """What it is known to get wrong in a case; None: nothing."""
        return self.known.get(case.short_id)

    def load(self) -> Any:
        """Import what `function` names.

        Raises:
            NoProvider: there is no such module or attribute, or its import fails; a kernel of the hub cannot be loaded.
        """
        if self.hub is not None:
            from scanproof.kernels.providers import hub

            return find_part(hub.load(self.hub), str(self.hub), self.function)
        target = find_attribute(self.function)
        return inspect.unwrap(target) if self.unwrap else target

    def find_origin(self) -> str:
        """Where a kernel of the hub, which `load` has loaded, came from; empty for anything else."""
        if self.hub is None:
            return ""
        from scanproof.kernels.providers import hub

        return hub.describe_origin(self.hub)

    def bind(self, target: Any) -> Call:
        """Make the call with the operation's arguments, by name, of what `load` has found."""
        call: Call = target if self.adapt is None else self.adapt(target)
        if not self.renames:
            return call

        def renamed(**arguments: Any) -> Any:
            return call(**{self.renames.get(name, name): value for name, value in arguments.items()})

        return renamed


def find_attribute(name: str) -> Any:
    """Import what `module:attribute` names.

    Raises:
        NoProvider: there is no such module or attribute, or its import fails.
    """
    module_name, _, path = name.partition(":")
    try:
        with warnings.catch_warnings():
            # Warnings during the import say nothing about the operation's results.
            warnings.simplefilter("ignore")
            target: Any = importlib.import_module(module_name)
    except Exception as error:
        why = f"{module_name} cannot be imported: {type(error).__name__}: {error}"
        if isinstance(error, ModuleNotFoundError):
            why += "; install it, or name its folder in PYTHONPATH"
        raise NoProvider(why) from error
    return find_part(target, module_name, path)


def find_part(module: Any, name: str, path: str) -> Any:
    """An attribute of a module, or an attribute's attribute, `a.b`; raises NoProvider where there is none."""
    target, file = module, getattr(module, "__file__", None) or "no file"
    for part in path.split("."):
        try:
            target = getattr(target, part)
        except AttributeError:
            raise NoProvider(f"{name} ({file}) has no {path}") from None
    return target
