"""Memory that is allocated while an operation runs holds NaN: what it never writes is seen."""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import torch
from torch import Tensor

POISONED = ("empty", "empty_like", "empty_strided")
"""Functions of torch that allocate memory without writing to it."""


@contextlib.contextmanager
def poison_new_memory(device: str, needed: int) -> Iterator[None]:
    """Fill newly allocated memory with NaN, so that elements that an operation never writes are seen.

    Allocations from Python are filled directly.  A CUDA extension takes its memory from PyTorch's pool of freed
    blocks: blocks that hold NaN are allocated and freed into that pool first.

    Args:
        needed: bytes that the case needs, with its references.
    """
    if device != "cpu":
        del allocate_nan_blocks(device, nan_room(torch.cuda.mem_get_info()[0], needed))[:]
    with contextlib.ExitStack() as stack:
        for name in POISONED:
            stack.enter_context(mock.patch.object(torch, name, _filling(getattr(torch, name))))
        for name in ("new_empty", "new_empty_strided"):
            stack.enter_context(mock.patch.object(Tensor, name, _filling(getattr(Tensor, name))))
        yield


def nan_room(free: int, needed: int) -> int:
    """Bytes that one process may fill with NaN: half of what the case needs, which is more than its results.

    At most a quarter of `free`, shared by all pytest-xdist workers: a process keeps its pool of freed blocks until it
    ends.
    """
    return min(needed // 2, free // 4 // int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1")))


def allocate_nan_blocks(device: str, room: int) -> list[Tensor]:
    """Allocate blocks of NaN of every power of two from 4 KiB to 16 GiB.

    The blocks of more than 1 MiB take at most `room` bytes together, the small ones 32 MiB.  PyTorch serves
    allocations of up to 1 MiB from a pool of their own, which has many free blocks: 16 of each size are made.
    """
    small = [2**power for power in range(10, 19) for _ in range(16)]
    large = [2**power for power in range(19, 33) if 2 * 4 * 2**power <= room]
    return [torch.full((size,), float("nan"), device=device) for size in small + large]


def _filling(allocate: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(allocate)
    def allocate_and_fill(*args: Any, **kwargs: Any) -> Any:
        tensor = allocate(*args, **kwargs)
        return tensor.fill_(float("nan")) if tensor.is_floating_point() or tensor.is_complex() else tensor

    return allocate_and_fill
