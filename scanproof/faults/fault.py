"""What the catalogue says of each fault, and the one way in which a fault is planted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

Call = Callable[..., Any]
Arguments = dict[str, Any]
Spoil = Callable[[Call, Arguments], Any]
"""From an operation and the arguments of one call to what the faulty operation returns."""


@dataclass(frozen=True)
class Fault:
    """One fault of one operation."""

    id: str
    op: str
    what: str
    """What the faulty operation does, in one sentence."""
    spoil: Spoil
    """Calls the operation it is given as often as it likes; where the fault does not show, once and unchanged."""
    links: tuple[str, ...] = ()
    """Where it was reported; a fault without a link is a generic one."""
    note: str | None = None
    """How the planted fault differs from the reported one."""


@dataclass(frozen=True)
class NotPlanted:
    """An entry of the catalogue that no change to an operation can express."""

    what: str
    links: tuple[str, ...]
    because: str


def plant(fault: Fault, call: Call) -> Call:
    """The operation with the fault in it."""

    def faulty(**arguments: Any) -> Any:
        return fault.spoil(call, arguments)

    return faulty
