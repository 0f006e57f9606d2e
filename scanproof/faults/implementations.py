"""Prepares the implementations of operations that faults are planted into."""

from __future__ import annotations

from collections.abc import Iterator

from scanproof.faults.correct import make_correct
from scanproof.faults.exam import Implementations
from scanproof.faults.fault import Call
from scanproof.kernels import operation_table
from scanproof.kernels.operation import Op


class ImplementationError(RuntimeError):
    """The chosen implementations cannot be run here; the message says why and what to do."""


def prepare_implementations(name: str) -> Implementations:
    """Prepare the implementations of a name.

    Args:
        name: `reference` (a correct implementation in PyTorch, on any machine), `interpreter` (the installed kernels in
            Triton's interpreter) or `gpu` (the installed kernels).

    Raises:
        ImplementationError: they cannot be run here.
    """
    if name == "reference":
        return Implementations(name, "cpu", make_correct)
    if name == "interpreter":
        from scanproof.kernels import interpreter

        reason = interpreter.why_not()
        if reason is not None:
            raise ImplementationError(reason)
        interpreter.prepare()
        return Implementations(name, "cpu", load_installed)
    from scanproof.kernels import device

    reason = device.why_no_gpu()
    if reason is not None:
        raise ImplementationError(reason)
    missing = dict(_find_missing())
    if len(missing) == len(operation_table.OPS):
        raise ImplementationError("no operation can be imported; scanproof doctor says what to install")
    return Implementations(name, "cuda", load_installed, missing)


def _find_missing() -> Iterator[tuple[str, str]]:
    """Operations that cannot be imported, and why."""
    for op in operation_table.OPS:
        try:
            op.load_implementation()
        except ImportError as error:
            yield op.name, f"{error}; {op.package} brings it"


def load_installed(op: Op, seed: int) -> Call:
    """Import the installed operation; the seed is not used."""
    return op.load_implementation()
