"""Small changes to the arguments and results of a call, of which faults are made."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from scanproof.faults.fault import Arguments, Call, Spoil

Change = Callable[[Tensor], Tensor]


def with_output(result: Any, change: Change) -> Any:
    """The result with its first tensor changed; states come after it."""
    return (change(result[0]), *result[1:]) if isinstance(result, tuple) else change(result)


def output_of(result: Any) -> Tensor:
    """The first tensor of a result."""
    found: Tensor = result[0] if isinstance(result, tuple) else result
    return found


def with_argument(name: str, change: Change) -> Spoil:
    """A fault in what is read of one argument; without the argument, none."""

    def spoil(call: Call, arguments: Arguments) -> Any:
        given = arguments.get(name)
        return call(**({**arguments, name: change(given)} if isinstance(given, Tensor) else arguments))

    return spoil


def with_arguments(names: Iterable[str], change: Change) -> Spoil:
    """The same of several arguments."""
    chosen = tuple(names)

    def spoil(call: Call, arguments: Arguments) -> Any:
        changed = {key: change(arguments[key]) for key in chosen if isinstance(arguments.get(key), Tensor)}
        return call(**{**arguments, **changed})

    return spoil


def with_gradient(value: Tensor, change: Change) -> Tensor:
    """The same value; the gradient that passes through it is changed."""
    if not value.requires_grad:
        return value
    same: Any = value.view_as(value)
    same.register_hook(change)
    return torch.as_tensor(same)


def cut_time(arguments: Arguments, times: Mapping[str, int], start: int, end: int) -> Arguments:
    """The arguments with those that have a time axis cut to [start, end).

    Args:
        times: argument -> its time axis, counted from the end.  A matrix of weights is constant in time.
    """
    found = dict(arguments)
    for name, axis in times.items():
        value = arguments.get(name)
        if isinstance(value, Tensor) and (value.dim() > 2 or not value.is_floating_point()):
            found[name] = value.narrow(axis, start, end - start)
    return found


def wrapped(axis: int) -> Change:
    """What is past the middle of an axis is read from its beginning again, as a wrapped offset does."""

    def change(value: Tensor) -> Tensor:
        length = value.shape[axis]
        places = torch.arange(length, device=value.device) % max(1, -(-length // 2))
        return value.index_select(axis, places)

    return change


def first_row_for_all(value: Tensor) -> Tensor:
    """A stride of 0 over the batch."""
    return value[:1].expand_as(value)


def first_row_for_last(value: Tensor) -> Tensor:
    """The last row of the batch is the first one's."""
    return torch.cat([value[:-1], value[:1]])


def as_if_contiguous(value: Tensor) -> Tensor:
    """What stands in memory where the elements would be if nothing had been transposed or padded."""
    strides, stride = [], 1
    for size in reversed(value.shape):
        strides.append(stride)
        stride *= size
    return value.as_strided(value.shape, tuple(reversed(strides)))


def rms(value: Tensor) -> Tensor:
    """Root mean square of the values, without a gradient."""
    return value.detach().to(torch.float32).square().mean().sqrt()
