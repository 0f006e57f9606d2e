"""Watches that a provider's function is entered, and that it does not compute with scanproof's own references.

A PyTorch form launches no kernel that could be watched.  A function is counted by a wrapper around it, a kernel of
Triton when it has been launched, a class or a module of torch when Python enters it.
"""

from __future__ import annotations

import contextlib
import functools
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from types import CodeType, FrameType
from typing import Any

from scanproof.kernels import compare

REFERENCES = "scanproof.kernels.references."
"""Modules of which a provider may enter none, but for `precision`, which the comparison enters elsewhere."""
ALLOWED = f"{REFERENCES}precision"
OURS = compare.compute_reference.__code__, compare.compute_form.__code__
"""Below these the comparison computes with the references itself."""


class EntryWatch:
    """Counts the calls of one function, and keeps the references that are entered by it or by its backward pass.

    It sees the thread that it watches, and those that Python starts meanwhile.  It does not see the thread in which
    autograd runs a backward pass on a GPU.
    """

    def __init__(self, target: Any) -> None:
        self.target = target
        self.code = find_code(target)
        """What Python enters when the target is called; None: nothing of Python's."""
        is_class_or_module = isinstance(target, type) or getattr(target, "forward", None) is not None
        self.is_launched = not is_class_or_module and hasattr(target, "__getitem__") and hasattr(target, "run")
        """Whether it is a kernel of Triton, which is used as it is: `kernel[grid](...)` runs `kernel.run`, and so does
        PyTorch's `wrap_triton`."""
        self.is_wrapped = not (self.is_launched or is_class_or_module)
        """Whether the provider calls the target through a function that counts: several functions may share a code.  A
        class or a module of torch is used as it is, and its entries are counted."""
        self.entered = 0
        self.references: Counter[str] = Counter()
        """`module.function` of a reference -> how often it was entered."""
        self.ended_early = False
        """Whether something else watches in its place when the block ends."""
        self._given_nothing = False
        """Whether an argument of the provider's call has no element."""

    @contextlib.contextmanager
    def watch(self) -> Iterator[None]:
        """Watch until the block ends."""
        before, before_in_threads, see = sys.getprofile(), threading.getprofile(), self._see
        sys.setprofile(see)
        threading.setprofile(see)
        try:
            with self._count_launches() if self.is_launched else contextlib.nullcontext():
                yield
        finally:
            self.ended_early = sys.getprofile() is not see
            sys.setprofile(before)
            threading.setprofile(before_in_threads)

    def wrap(self, bind: Callable[[Any], Callable[..., Any]]) -> Callable[..., Any]:
        """The call of the provider, so that what it enters is told from what the comparison does.

        Args:
            bind: makes the call with the operation's arguments, of the target or of what counts its calls.
        """
        call = bind(self._make_counting() if self.is_wrapped else self.target)

        def call_provider(**arguments: Any) -> Any:
            self._given_nothing = any(getattr(given, "numel", lambda: 1)() == 0 for given in arguments.values())
            return call(**arguments)

        self._call = call_provider.__code__
        return call_provider

    def _make_counting(self) -> Any:
        target = self.target
        if hasattr(target, "__getitem__"):
            return CountedLauncher(target, self)

        def counting(*values: Any, **named: Any) -> Any:
            self.entered += 1
            return target(*values, **named)

        return functools.wraps(target)(counting)

    @contextlib.contextmanager
    def _count_launches(self) -> Iterator[None]:
        """Count the launches of the kernel that succeed, until the block ends."""
        run, own = self.target.run, vars(self.target)
        before = {"run": own["run"]} if "run" in own else {}

        def counting(*values: Any, **named: Any) -> Any:
            launched = run(*values, **named)
            grid = named.get("grid")
            empty = isinstance(grid, tuple | list) and 0 in grid
            # To warm up is to compile; a grid with a side of 0 computes nothing, as is right for a batch of 0.
            if not named.get("warmup") and (self._given_nothing or not empty):
                self.entered += self._is_below_provider(sys._getframe())
            return launched

        self.target.run = counting
        try:
            yield
        finally:
            del self.target.run
            own.update(before)

    def _see(self, frame: FrameType, event: str, argument: Any) -> None:
        if event != "call":
            return
        if not self.is_wrapped and not self.is_launched and frame.f_code is self.code:
            self.entered += self._is_called_by_provider(frame)
        module = frame.f_globals.get("__name__") or ""
        if module.startswith(REFERENCES) and module != ALLOWED and not self._is_ours(frame):
            self.references[f"{module}.{frame.f_code.co_name}"] += 1

    def _is_called_by_provider(self, frame: FrameType | None) -> bool:
        """Whether the provider's call is above, and the frame is of the target's own object."""
        assert frame is not None
        own = frame.f_locals.get("self")
        if not (isinstance(own, self.target) if isinstance(self.target, type) else own is self.target):
            return False
        return self._is_below_provider(frame)

    def _is_below_provider(self, frame: FrameType | None) -> bool:
        """Whether the provider's call is above a frame."""
        while frame is not None and frame.f_code is not self._call:
            frame = frame.f_back
        return frame is not None

    def _is_ours(self, frame: FrameType) -> bool:
        """Whether the comparison entered it, and not the provider."""
        above: FrameType | None = frame
        ours = False
        while above is not None:
            if above.f_code is self._call:
                return False
            ours = ours or above.f_code in OURS
            above = above.f_back
        return ours

    def describe(self) -> str:
        """Which function is watched, of which file and line."""
        where = f" ({self.code.co_filename}:{self.code.co_firstlineno})" if self.code is not None else ""
        return f"{name_of(self.target)}{where}"


class CountedLauncher:
    """A kernel that is called with its grid, `kernel[grid](...)`, or as it is, and has no `run`: calls are counted."""

    def __init__(self, kernel: Any, watch: EntryWatch) -> None:
        self._kernel, self._watch = kernel, watch

    def __getitem__(self, grid: Any) -> Callable[..., Any]:
        return self._count(self._kernel[grid])

    def __call__(self, *values: Any, **named: Any) -> Any:
        return self._count(self._kernel)(*values, **named)

    def _count(self, launch: Callable[..., Any]) -> Callable[..., Any]:
        def counting(*values: Any, **named: Any) -> Any:
            launched = launch(*values, **named)
            self._watch.entered += 1
            return launched

        return counting

    def __getattr__(self, name: str) -> Any:
        return getattr(self._kernel, name)


def find_code(target: Any) -> CodeType | None:
    """What Python enters when a function, a module of torch or another object is called; None: nothing of Python."""
    if isinstance(target, type):
        target = getattr(target, "forward", target)
    elif not hasattr(target, "__code__") and not hasattr(target, "__func__"):
        target = getattr(target, "forward", None) or type(target).__call__
    target = getattr(target, "__func__", target)
    code = getattr(target, "__code__", None)
    return code if isinstance(code, CodeType) else None


def name_of(target: Any) -> str:
    """Name of a function or class, or of an object's class."""
    return str(getattr(target, "__qualname__", type(target).__qualname__))
