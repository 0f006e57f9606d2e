"""Which rows of a large batch are compared: the operation runs on all of them, the references on a few."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from scanproof.kernels.cases import KernelCase
from scanproof.kernels.inputs import ArgumentSpec, OutputSpec, axes_of
from scanproof.kernels.operation import Op

NUMBERS_AT_ONCE = 2**26
"""Numbers that are looked at together."""


def choose_rows(op: Op, case: KernelCase, results: Mapping[str, Tensor]) -> list[int]:
    """The rows of the batch that are compared: the first, the last, the smallest, the largest, and a drawn one.

    What was never written is 0, or not a number: such a row is the smallest, or counts as the largest.
    """
    batched = _list_batched(op, case)
    values = [value for name, value in results.items() if name in batched]
    counts = {len(value) for value in values}
    # A state may have more slots than the batch has rows: then no row between is of both.
    if len(counts) != 1 or op.sizes(case)["N"] != op.sizes(case).get("b"):
        return [0, -1]
    (count,) = counts
    extreme = {row for value in values for row in _find_extreme_rows(value)}
    return [0, *sorted(extreme | {random.Random(case.seed).randrange(count)}), -1]


def _find_extreme_rows(value: Tensor) -> tuple[int, int]:
    """The row with the smallest and that with the largest sum of its numbers' sizes; one not finite is the largest.

    The rows are looked at in parts, because a batch may fill the memory.
    """
    together = max(1, NUMBERS_AT_ONCE // max(1, value[0].numel()))
    starts = range(0, len(value), together)
    parts = (value[start : start + together].flatten(1) for start in starts)
    sizes = torch.cat([part.abs().sum(1, dtype=torch.float64) for part in parts])
    sizes = torch.nan_to_num(sizes, nan=float("inf"))
    return int(sizes.argmin()), int(sizes.argmax())


def take_rows(op: Op, case: KernelCase, values: Mapping[str, Any], rows: list[int]) -> dict[str, Any]:
    """Keep some rows of every value that has a batch axis."""
    batched = _list_batched(op, case)
    return {name: value[rows] if name in batched else value for name, value in values.items()}


def _list_batched(op: Op, case: KernelCase) -> frozenset[str]:
    """Names of the arguments and results whose first axis is the batch, or the slots of a state."""
    parts: list[ArgumentSpec | OutputSpec] = [*op.arguments, *op.outputs]
    axes = {part.name: axes_of(part, case) for part in parts}
    return frozenset(name for name, part in axes.items() if part.split()[:1] in (["b"], ["N"]))
