"""Faults of single arguments and options: each of every operation is forgotten, read in the wrong row or differentiated
wrongly.

They are made from the operation table, so that an argument that is added there is asked for as well.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from dataclasses import replace
from itertools import chain
from typing import Any

from torch import Tensor

from scanproof.faults.changes import first_row_for_last, with_argument, with_gradient
from scanproof.faults.fault import Arguments, Call, Fault, Spoil
from scanproof.kernels import cases, operation_table
from scanproof.kernels.inputs import ArgumentSpec
from scanproof.kernels.operation import Op

HALVED = 0.5
LAYOUT = ("headdim", "ngroups", "state_v_first")
"""Options that say how an argument is laid out: a call without them is refused."""
ROUNDING = ("chunk_size",)
"""Options that change results by rounding alone."""
ASKED_FOR = ("A_log",)
"""Arguments that an option asks for: a call with the option and without them is refused."""


def forgotten(name: str) -> Spoil:
    """Make the fault: an optional argument is not used."""

    def spoil(call: Call, arguments: Arguments) -> Any:
        return call(**{**arguments, name: None}) if isinstance(arguments.get(name), Tensor) else call(**arguments)

    return spoil


def at_its_default(name: str, default: object) -> Spoil:
    """Make the fault: an option is not used, so that the call is made with its default."""

    def spoil(call: Call, arguments: Arguments) -> Any:
        return call(**({**arguments, name: default} if name in arguments else arguments))

    return spoil


def gradient_halved(name: str) -> Spoil:
    """Make the fault: half of the gradient of one argument is lost, as where one of two terms is left out."""

    def spoil(call: Call, arguments: Arguments) -> Any:
        value = arguments.get(name)
        if not isinstance(value, Tensor):
            return call(**arguments)
        return call(**{**arguments, name: with_gradient(value, lambda gradient: gradient * HALVED)})

    return spoil


def _options_of(op: Op) -> Iterator[tuple[str, object]]:
    """The options that change results, which cases of an operation set to another value than the default, with it."""
    defaults = {
        name: parameter.default
        for name, parameter in inspect.signature(op.reference).parameters.items()
        if parameter.default is not parameter.empty
    }
    left_out = {*(output.option for output in op.outputs), *LAYOUT, *ROUNDING}
    used: dict[str, list[object]] = {}
    for name, value in chain.from_iterable(case.options.items() for case in cases.load() if case.op == op.name):
        used.setdefault(name, []).append(value)
    for name, values in sorted(used.items()):
        if name in defaults and name not in left_out and any(value != defaults[name] for value in values):
            yield name, defaults[name]


def _faults_of_argument(op: Op, argument: ArgumentSpec) -> Iterator[Fault]:
    name = argument.name
    if argument.optional and name not in ASKED_FOR:
        yield Fault(f"forgotten-{op.name}-{name}", op.name, f"{name} is not used.", forgotten(name))
    if argument.axes.partition(" ")[0] == "b" and argument.dtype != "int32":
        yield Fault(
            f"last_row-{op.name}-{name}", op.name, f"The last row of the batch reads the first row's {name}.",
            with_argument(name, first_row_for_last),
        )  # fmt: skip
    if argument.differentiable and op.backward_flop is not None:
        yield Fault(
            f"gradient-{op.name}-{name}", op.name, f"Half of the gradient of {name} is lost.", gradient_halved(name)
        )


def _faults_of(op: Op) -> Iterator[Fault]:
    for argument in op.arguments:
        yield from (replace(fault, in_layers=False) for fault in _faults_of_argument(op, argument))
    for name, default in _options_of(op):
        yield Fault(
            f"default-{op.name}-{name}", op.name, f"{name} is not used: it stays {default!r}.",
            at_its_default(name, default), in_layers=False,
        )  # fmt: skip


FAULTS: tuple[Fault, ...] = tuple(fault for op in operation_table.OPS for fault in _faults_of(op))
