"""Which rows of a large batch are compared: the operation runs on all of them, the references on three."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from scanproof.kernels.cases import KernelCase
from scanproof.kernels.inputs import ArgumentSpec, OutputSpec, axes_of
from scanproof.kernels.operation import Op

NUMBERS_AT_ONCE = 2**26
"""Numbers that are looked at together."""


def choose_rows(op: Op, case: KernelCase, results: Mapping[str, Tensor]) -> list[int]:
    """The rows of the batch that are compared: the first, one between, the last.

    The one between is the first that is not finite, as what was never written is; else one that the case's seed draws.
    """
    batched = _list_batched(op, case)
    values = [value for name, value in results.items() if name in batched]
    counts = {len(value) for value in values}
    # A state may have more slots than the batch has rows: then no row between is of both.
    if len(counts) != 1 or op.sizes(case)["N"] != op.sizes(case).get("b"):
        return [0, -1]
    (count,) = counts
    unwritten = [row for value in values if (row := _find_row_not_finite(value)) is not None]
    return [0, min(unwritten, default=random.Random(case.seed).randrange(count)), -1]


def _find_row_not_finite(value: Tensor) -> int | None:
    """The first row that holds a number that is not finite; looked at in parts, because a batch may fill the memory."""
    together = max(1, NUMBERS_AT_ONCE // max(1, value[0].numel()))
    for start in range(0, len(value), together):
        wrong = ~value[start : start + together].isfinite().flatten(1).all(1)
        if bool(wrong.any()):
            return start + int(wrong.nonzero()[0])
    return None


def take_rows(op: Op, case: KernelCase, values: Mapping[str, Any], rows: list[int]) -> dict[str, Any]:
    """Keep some rows of every value that has a batch axis."""
    batched = _list_batched(op, case)
    return {name: value[rows] if name in batched else value for name, value in values.items()}


def _list_batched(op: Op, case: KernelCase) -> frozenset[str]:
    """Names of the arguments and results whose first axis is the batch, or the slots of a state."""
    parts: list[ArgumentSpec | OutputSpec] = [*op.arguments, *op.outputs]
    axes = {part.name: axes_of(part, case) for part in parts}
    return frozenset(name for name, part in axes.items() if part.split()[:1] in (["b"], ["N"]))
