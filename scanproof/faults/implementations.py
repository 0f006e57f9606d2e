"""Where the operations come from that faults are planted into."""

from __future__ import annotations

from collections.abc import Iterator

from scanproof.faults.correct import correct
from scanproof.faults.exam import Place
from scanproof.faults.fault import Call
from scanproof.kernels import operation_table
from scanproof.kernels.operation import Op


class PlaceError(RuntimeError):
    """The operations cannot be run there; the message says why and what to do."""


def place(name: str) -> Place:
    """A place by name, made ready.

    Args:
        name: `reference` (a correct implementation in PyTorch, on any machine), `interpreter` or `gpu`.
    """
    if name == "reference":
        return Place(name, "cpu", correct)
    if name == "interpreter":
        from scanproof.kernels import interpreter

        reason = interpreter.why_not()
        if reason is not None:
            raise PlaceError(reason)
        interpreter.prepare()
        return Place(name, "cpu", installed)
    from scanproof.kernels import device

    reason = device.why_no_gpu()
    if reason is not None:
        raise PlaceError(reason)
    missing = dict(_missing())
    if len(missing) == len(operation_table.OPS):
        raise PlaceError("no operation can be imported; scanproof doctor says what to install")
    return Place(name, "cuda", installed, missing)


def _missing() -> Iterator[tuple[str, str]]:
    for op in operation_table.OPS:
        try:
            op.implementation()
        except ImportError as error:
            yield op.name, f"{error}; {op.package} brings it"


def installed(op: Op, seed: int) -> Call:
    """The installed operation, whatever the seed; its roundings are its own."""
    return op.implementation()
