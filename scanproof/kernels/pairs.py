"""Which pairs of an operation's optional arguments and options the kernel cases ask for.

What a call may choose is read from the operation's row and the signature of its reference, so that a new argument is a
choice as soon as it is there.  A choice is taken where an argument is passed, an option has another value than its
default, or gradients are compared.
"""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from scanproof.kernels.cases import TABLE, CaseError, KernelCase, describe_mistake, read_table
from scanproof.kernels.inputs import ArgumentSpec
from scanproof.kernels.operation import Op

GRADIENTS = "gradients"
"""Name of the choice whether gradients are compared."""
Taken = Mapping[str, bool]
"""Choice -> whether it is taken."""


@dataclass(frozen=True)
class Refusal:
    """A choice, or two together, that no case of an operation can have."""

    choices: Taken
    because: str


class RefusalForm(BaseModel):
    """A row of `refused` in `cases.yaml`."""

    model_config = ConfigDict(strict=True, extra="forbid")

    taken: list[str] = Field(default=[], alias="with")
    left: list[str] = Field(default=[], alias="without")
    because: Annotated[str, Field(min_length=1)]


def load_refusals(path: Path = TABLE) -> dict[str, tuple[Refusal, ...]]:
    """Read what no case can have, by operation.

    Raises:
        CaseError: a row is wrong; the message says which and what to write.
    """
    table = read_table(path, "refused")["refused"]
    return {op: tuple(_read_refusal(row, f"{path.name}: refused: {op}") for row in rows) for op, rows in table.items()}


def _read_refusal(row: object, place: str) -> Refusal:
    try:
        form = RefusalForm.model_validate(row)
    except ValidationError as error:
        raise CaseError(f"{place}: {describe_mistake(error)}") from None
    choices = {**dict.fromkeys(form.taken, True), **dict.fromkeys(form.left, False)}
    if len(choices) not in (1, 2) or len(choices) < len(form.taken) + len(form.left):
        raise CaseError(f"{place}: write one or two names under with: and without:, each once")
    return Refusal(choices, form.because)


@dataclass(frozen=True)
class PairCount:
    """The pairs of one operation."""

    op: str
    covered: int
    missing: tuple[Taken, ...]
    """Pairs that no case asks for."""
    refused: int
    """Pairs that cannot be asked for, see `refused` in `cases.yaml`."""

    @property
    def possible(self) -> int:
        return self.covered + len(self.missing)


def list_choices(op: Op) -> tuple[str, ...]:
    """Names of the arguments that a call may leave out, the options that have a default, and `gradients`."""
    parameters = inspect.signature(op.reference).parameters
    arguments = {argument.name for argument in op.arguments}
    may_be_none = {name for name, parameter in parameters.items() if parameter.annotation == "Tensor | None"}
    passed = [argument.name for argument in op.arguments if argument.optional or argument.name in may_be_none]
    options = [
        name
        for name, parameter in parameters.items()
        if name not in arguments and name != "hold" and parameter.default is not inspect.Parameter.empty
    ]
    return (*passed, *options, *([GRADIENTS] if op.backward_flop else ()))


def take_choices(op: Op, case: KernelCase) -> dict[str, bool]:
    """Every choice of the operation, and whether the case takes it."""
    parameters = inspect.signature(op.reference).parameters
    arguments = {argument.name: argument for argument in op.arguments}
    taken = {}
    for name in list_choices(op):
        if name == GRADIENTS:
            taken[name] = case.backward
        elif name in arguments:
            taken[name] = _is_passed(arguments[name], case)
        else:
            default = parameters[name].default
            taken[name] = case.options.get(name, default) != default
    return taken


def _is_passed(argument: ArgumentSpec, case: KernelCase) -> bool:
    if argument.optional:
        return argument.name in case.given
    return case.values.get(argument.name, argument.values) != "none"


def count_pairs(op: Op, cases: Iterable[KernelCase], refusals: Sequence[Refusal]) -> PairCount:
    """Count the pairs of choices, each taken or not, that some case asks for.

    A case that is known to raise an error compares nothing, and asks for no pair.
    """
    asked = [take_choices(op, case) for case in cases if case.op == op.name and case.raises is None]
    seen = {frozenset(pair.items()) for row in asked for pair in _pairs_of(row)}
    pairs = list(list_pairs(list_choices(op)))
    possible = [pair for pair in pairs if follow_refusals(pair, refusals) is not None]
    missing = tuple(pair for pair in possible if frozenset(pair.items()) not in seen)
    return PairCount(op.name, len(possible) - len(missing), missing, len(pairs) - len(possible))


def list_pairs(choices: Iterable[str]) -> Iterator[dict[str, bool]]:
    """All pairs of two choices, each taken and not."""
    for first, second in itertools.combinations(choices, 2):
        for one, other in itertools.product((True, False), repeat=2):
            yield {first: one, second: other}


def _pairs_of(taken: Taken) -> Iterator[dict[str, bool]]:
    return (dict(pair) for pair in itertools.combinations(taken.items(), 2))


def follow_refusals(taken: Taken, refusals: Sequence[Refusal]) -> dict[str, bool] | None:
    """Add what the refusals leave no choice about; None if they refuse these choices.

    A refusal is of one choice or of two, so that a call exists for every answer that is not None.
    """
    settled, grows = dict(taken), True
    while grows:
        grows = False
        for refusal in refusals:
            open_ = [name for name in refusal.choices if name not in settled]
            if any(settled[name] is not refusal.choices[name] for name in refusal.choices if name in settled):
                continue
            if not open_:
                return None
            if len(open_) == 1:
                settled[open_[0]] = not refusal.choices[open_[0]]
                grows = True
    return settled


def propose_rows(
    choices: Iterable[str], missing: Sequence[Taken], refusals: Sequence[Refusal]
) -> list[dict[str, bool]]:
    """Choose rows that ask for all missing pairs, greedily: each choice of a row as more of what is missing has it.

    Where nothing that is missing has a choice, it is not taken; gradients are.

    Raises:
        ValueError: a pair is refused.
    """
    names, left, rows = tuple(choices), list(missing), []
    while left:
        row = follow_refusals(left[0], refusals)
        if row is None:
            raise ValueError(f"no row can be {describe_choices(left[0])}")
        for name in names:
            values = [row[name]] if name in row else [name == GRADIENTS, name != GRADIENTS]
            grown = [follow_refusals({**row, name: value}, refusals) for value in values]
            row = max((each for each in grown if each is not None), key=lambda each: _count_held(each, left))
        rows.append({name: row[name] for name in names})
        left = [pair for pair in left if not pair.items() <= row.items()]
    return rows


def _count_held(row: Taken, pairs: Iterable[Taken]) -> int:
    return sum(pair.items() <= row.items() for pair in pairs)


def describe_choices(taken: Taken) -> str:
    """Say which choices are taken and which are not, in a line."""
    with_ = ", ".join(name for name, value in taken.items() if value)
    without = ", ".join(name for name, value in taken.items() if not value)
    return " and ".join(part for part in (with_ and f"with {with_}", without and f"without {without}") if part)
