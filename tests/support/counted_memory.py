"""Memory that tensors take, counted tensor by tensor: the same on every machine and under every load.

What the operating system says of a process depends on its page cache, on threads and on the C library; it is measured
in `benchmarks/loading.py`.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from unittest import mock

import pytest
import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

# It has no annotations.
weak_reference: Any = StorageWeakRef

SHARDS = "scanproof.models.shards"
ROUND = 2**14
"""Bytes that `small_rounds` has converted at a time: a checkpoint of a MB takes many rounds."""
LITTLE = 2**12
"""Bytes of what is no weight: sums, a rotary embedding's frequencies."""


@dataclass
class Mapped:
    """A file that is mapped: what was read of it is in memory until the last tensor of the mapping is gone."""

    start: int
    stop: int
    alive: Any
    """Weak reference to its storage."""
    read: set[tuple[int, int]] = field(default_factory=set)
    """Addresses of first byte and behind the last."""

    def bytes_read(self) -> int:
        total = end = 0
        for start, stop in sorted(self.read):
            total += max(0, stop - max(start, end))
            end = max(end, stop)
        return total


@dataclass
class CountedMemory:
    """Bytes of the tensors that are alive, and of what was read of mapped files; those from before do not count."""

    peak: int = 0
    allocated: dict[int, tuple[Any, int]] = field(default_factory=dict)
    """By the storage's address: a weak reference to it, and its bytes; 0 where it was there before."""
    mapped: list[Mapped] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def now(self) -> int:
        """Bytes that are held."""
        self.allocated = {key: kept for key, kept in self.allocated.items() if not kept[0].expired()}
        self.mapped = [each for each in self.mapped if not each.alive.expired()]
        return sum(size for _, size in self.allocated.values()) + sum(each.bytes_read() for each in self.mapped)

    def map(self, storage: Any) -> None:
        """Note a file that was mapped."""
        with self.lock:
            start = storage.data_ptr()
            self.now()
            self.mapped.append(Mapped(start, start + storage.nbytes(), weak_reference(storage)))

    def use(self, tensor: torch.Tensor) -> None:
        """Note a tensor that an operation is about to read or to write."""
        first = tensor.data_ptr()
        extent = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True)) + 1
        if found := self._mapping(first):
            found.read.add((first, first + extent * tensor.itemsize if tensor.numel() else first))
        else:
            self._keep(tensor, 0)

    def make(self, tensor: torch.Tensor) -> None:
        """Note a tensor that an operation returned."""
        if not self._mapping(tensor.data_ptr()):
            self._keep(tensor, tensor.untyped_storage().nbytes())

    def _keep(self, tensor: torch.Tensor, size: int) -> None:
        seen = weak_reference(tensor.untyped_storage())
        self.allocated.setdefault(seen.cdata, (seen, size))

    def _mapping(self, address: int) -> Mapped | None:
        return next((each for each in self.mapped if each.start <= address < each.stop), None)

    def __call__(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run one operation, and note what it reads and what it returns."""
        with self.lock:
            self.now()
            if not func.is_view:
                for each in _tensors((args, kwargs)):
                    self.use(each)
        returned = func(*args, **kwargs)
        with self.lock:
            for each in _tensors(returned):
                self.make(each)
            self.peak = max(self.peak, self.now())
        return returned


def _tensors(nested: Any) -> list[torch.Tensor]:
    found = [each for each in pytree.tree_leaves(nested) if isinstance(each, torch.Tensor)]
    return [each for each in found if each.device.type != "meta"]


class Counting(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Hands every operation of one thread to `memory`."""

    def __init__(self, memory: CountedMemory) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.memory = memory

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return self.memory(func, args, kwargs or {})


@contextmanager
def counted_memory(threads_of: str = "") -> Iterator[CountedMemory]:
    """Count what this thread's operations take, and those of the threads that the module `threads_of` starts."""
    memory, map_file = CountedMemory(), torch.UntypedStorage.from_file

    def mapping(*args: Any, **kwargs: Any) -> Any:
        storage = map_file(*args, **kwargs)
        memory.map(storage)
        return storage

    def pool(threads: int) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(threads, initializer=lambda: Counting(memory).__enter__())  # type: ignore[no-untyped-call]

    with mock.patch.object(torch.UntypedStorage, "from_file", mapping), Counting(memory):
        if threads_of:
            with mock.patch(f"{threads_of}.ThreadPoolExecutor", pool):
                yield memory
        else:
            yield memory


def small_rounds(monkeypatch: pytest.MonkeyPatch, threads: int) -> None:
    """Let `scanproof.models.shards` convert little at a time, on so many threads whatever cores there are."""
    monkeypatch.setattr(f"{SHARDS}.SMALLEST", ROUND)
    monkeypatch.setattr(f"{SHARDS}.usable_cpus", lambda: threads * torch.get_num_threads())


def read(model: torch.nn.Module) -> None:
    """Every weight: one that is mapped takes memory from then on."""
    for weight in model.parameters():
        weight.detach().sum()


def assert_held_once(
    memory: CountedMemory, weights: Iterable[torch.Tensor], converted: Sequence[torch.Tensor], threads: int
) -> None:
    """What `scanproof.models.shards` promises: all weights once, beside them a tenth of what is converted from another
    dtype, or a round per thread."""
    held = sum(weight.nbytes for weight in weights)
    beside = max(sum(each.nbytes for each in converted) // 10, threads * ROUND) if converted else 0
    row = max((each[:1].nbytes for each in converted), default=0)
    assert held <= memory.peak <= held + beside + threads * row + LITTLE
    assert memory.now() <= held + LITTLE, "what was needed on the way is let go"
