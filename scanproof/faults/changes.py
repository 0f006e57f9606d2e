"""Small changes to the arguments and results of a call; faults are made of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from scanproof.faults.fault import Arguments, Call, Spoil

TensorChange = Callable[[Tensor], Tensor]
"""Returns a changed tensor."""


def with_output(result: Any, change: TensorChange) -> Any:
    """Change the output, which is the first tensor of a result; the states after it stay."""
    return (change(result[0]), *result[1:]) if isinstance(result, tuple) else change(result)


def output_of(result: Any) -> Tensor:
    """The output: the first tensor of a result."""
    output: Tensor = result[0] if isinstance(result, tuple) else result
    return output


def with_argument(name: str, change: TensorChange) -> Spoil:
    """Make a fault that changes one argument; if the argument is not passed, the fault has no effect."""

    def spoil(call: Call, arguments: Arguments) -> Any:
        given = arguments.get(name)
        return call(**({**arguments, name: change(given)} if isinstance(given, Tensor) else arguments))

    return spoil


def with_arguments(names: Iterable[str], change: TensorChange) -> Spoil:
    """Make a fault that applies the same change to several arguments."""
    chosen = tuple(names)

    def spoil(call: Call, arguments: Arguments) -> Any:
        changed = {key: change(arguments[key]) for key in chosen if isinstance(arguments.get(key), Tensor)}
        return call(**{**arguments, **changed})

    return spoil


def with_gradient(value: Tensor, change: TensorChange) -> Tensor:
    """Return the value unchanged, but change the gradient that passes through it."""
    if not value.requires_grad:
        return value
    same: Any = value.view_as(value)
    same.register_hook(change)
    return torch.as_tensor(same)


def cut_time(arguments: Arguments, times: Mapping[str, int], start: int, end: int) -> Arguments:
    """Cut the arguments that have a time axis to [start, end); the others stay.

    Args:
        times: argument -> its time axis, counted from the end.  A floating argument with two axes is constant in time
            and stays.
    """
    changed = dict(arguments)
    for name, axis in times.items():
        value = arguments.get(name)
        if isinstance(value, Tensor) and (value.dim() > 2 or not value.is_floating_point()):
            changed[name] = value.narrow(axis, start, end - start)
    return changed


def wrapped(axis: int) -> TensorChange:
    """Make a change that reads the second half of an axis from its beginning, as an offset that overflows does."""

    def change(value: Tensor) -> Tensor:
        length = value.shape[axis]
        positions = torch.arange(length, device=value.device) % max(1, -(-length // 2))
        return value.index_select(axis, positions)

    return change


def first_row_for_all(value: Tensor) -> Tensor:
    """Read the first row for every row, as a batch stride of 0 does."""
    return value[:1].expand_as(value)


def first_row_for_last(value: Tensor) -> Tensor:
    """Replace the last row of the batch by the first one."""
    return torch.cat([value[:-1], value[:1]])


def as_if_contiguous(value: Tensor) -> Tensor:
    """Read the memory as if the tensor were contiguous, ignoring that it is transposed or padded."""
    strides, stride = [], 1
    for size in reversed(value.shape):
        strides.append(stride)
        stride *= size
    return value.as_strided(value.shape, tuple(reversed(strides)))


def rms(value: Tensor) -> Tensor:
    """The root mean square of the values, without a gradient."""
    return value.detach().to(torch.float32).square().mean().sqrt()
