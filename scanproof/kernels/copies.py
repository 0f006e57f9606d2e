"""Copies the arguments of a call, so that what it overwrites is seen and reaches no reference."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor

WORDS: Mapping[int, torch.dtype] = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64, 16: torch.int64}
"""Bytes of an element -> the integers that its bits are compared as; as an integer NaN is equal to itself."""


def copy_tensors(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Copy the tensors among the arguments, each with all of the memory that it lies in.

    Their layout stays, and so does what is between their rows; other arguments are the same objects.
    """
    return {name: _copy(value) if isinstance(value, Tensor) else value for name, value in arguments.items()}


def _copy(value: Tensor) -> Tensor:
    copy = torch.empty(0, dtype=value.dtype, device=value.device)
    memory = _memory(value).clone().untyped_storage()
    return copy.set_(memory, value.storage_offset(), value.shape, value.stride())


def overwrite_tensors(given: Mapping[str, Any], values: Mapping[str, Any]) -> None:
    """Write other values into tensors of the same layout, and into what is between their rows.

    They stay the same objects in the same memory; that they were changed shows in their version alone, as after an
    optimizer's step.
    """
    for name, value in given.items():
        if isinstance(value, Tensor):
            _memory(value.detach()).copy_(_memory(values[name]))
            torch.autograd.graph.increment_version(value)


def find_overwritten(before: Mapping[str, Any], after: Mapping[str, Any], declared: Collection[str]) -> list[str]:
    """Names of the tensors whose bits, or those between their rows, are others than before.

    Args:
        before, after: the arguments, and their `copy_tensors` after the call.
        declared: arguments that the call may write to.
    """
    tensors = {name: value for name, value in before.items() if isinstance(value, Tensor) and name not in declared}
    return [name for name, value in tensors.items() if not torch.equal(_memory(value), _memory(after[name]))]


def _memory(value: Tensor) -> Tensor:
    return torch.empty(0, dtype=WORDS[value.element_size()], device=value.device).set_(value.untyped_storage())
