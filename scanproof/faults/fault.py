"""The type of a fault in the catalogue, and the function that plants one into an operation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

Call = Callable[..., Any]
Arguments = dict[str, Any]
Spoil = Callable[[Call, Arguments], Any]
"""Takes an operation and the arguments of one call, and returns what the faulty operation returns."""


@dataclass(frozen=True)
class WithMemory:
    """A faulty operation that keeps something from call to call: made anew each time that it is planted."""

    make: Callable[[], Spoil]

    def __call__(self, call: Call, arguments: Arguments) -> Any:
        """Its first call."""
        return self.make()(call, arguments)


@dataclass(frozen=True)
class Fault:
    """One fault of one operation."""

    id: str
    op: str
    """Name of the operation."""
    what: str
    """What the faulty operation does, in one sentence."""
    spoil: Spoil
    """The faulty operation, made of any number of calls of the correct one.  Where the fault has no effect, it is one
    call with unchanged arguments."""
    links: tuple[str, ...] = ()
    """Where the fault was reported; a generic fault has no links."""
    note: str | None = None
    """How the planted fault differs from the reported fault."""
    in_layers: bool = True
    """Whether it can be planted into the layers of a stand-in, which need all their arguments."""


@dataclass(frozen=True)
class NotPlanted:
    """A reported fault that cannot be planted, because no change to an operation expresses it."""

    what: str
    links: tuple[str, ...]
    because: str
    """Why it cannot be planted."""


def plant(fault: Fault, call: Call) -> Call:
    """Make the operation with the fault in it."""
    spoil = fault.spoil.make() if isinstance(fault.spoil, WithMemory) else fault.spoil

    def faulty(**arguments: Any) -> Any:
        return spoil(call, arguments)

    return faulty
