"""Watches that a provider's function is entered, and that it does not compute with scanproof's own references.

A PyTorch form launches no kernel that could be watched.  A function is counted when it has returned, a kernel when it
has been launched, a class or a module of torch when its `forward` has returned.
"""

from __future__ import annotations

import contextlib
import functools
import operator
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
    """Counts how often a provider's call uses one function, and keeps the references that it or its backward enters.

    A use counts when it has succeeded while the provider's call runs, in any thread.  A kernel that is only compiled
    counts nothing, nor does an empty grid.  Where an argument of the provider's call is empty and no launch raised, a
    kernel had nothing to do; a function has to be called all the same.

    Modules and references are seen in the thread that watches, and in those that Python starts meanwhile.  Not seen is
    the thread in which autograd runs a backward pass on a GPU.
    """

    def __init__(self, target: Any) -> None:
        self.target = target
        self.code = find_code(target)
        """What Python enters when the target is called; None: nothing of Python's."""
        self.is_class_or_module = isinstance(target, type) or getattr(target, "forward", None) is not None
        """Whether it is used as it is, and the returns of its code are counted.  One of None is not told from an error,
        and counts nothing."""
        self.is_kernel = not self.is_class_or_module and hasattr(target, "__getitem__")
        """Whether it is launched on a grid, `kernel[grid](...)`."""
        self.is_launched = self.is_kernel and can_replace_run(target)
        """Whether it is a kernel of Triton, which is used as it is: `kernel[grid](...)` runs `kernel.run`, and so does
        PyTorch's `wrap_triton`.  Anything else is used through what counts: several functions may share a code."""
        self.entered = 0
        self.had_nothing_to_do = False
        """Whether a call of the provider was given an empty argument and launched nothing."""
        self.raised = False
        """Whether a launch of the kernel raised, whatever was made of the error."""
        self.references: Counter[str] = Counter()
        """`module.function` of a reference -> how often it was entered."""
        self.ended_early = False
        """Whether something else watches in its place when the block ends."""
        self._active = 0
        """How many calls of the provider run now."""

    @contextlib.contextmanager
    def watch(self) -> Iterator[None]:
        """Watch until the block ends."""
        before, before_in_threads, see = sys.getprofile(), threading.getprofile(), self._see
        sys.setprofile(see)
        threading.setprofile(see)
        try:
            with self._replace_run() if self.is_launched else contextlib.nullcontext():
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
        call = bind(self.target if self.is_launched or self.is_class_or_module else self._make_counting())

        def call_provider(**arguments: Any) -> Any:
            is_given_nothing = any(getattr(given, "numel", lambda: 1)() == 0 for given in arguments.values())
            before = self.entered
            self._active += 1
            try:
                returned = call(**arguments)
            finally:
                self._active -= 1
            if self.is_kernel and is_given_nothing and self.entered == before and not self.raised:
                self.had_nothing_to_do = True
            return returned

        self._call = call_provider.__code__
        return call_provider

    def _note(self, size: Any = 1, warmup: Any = False) -> None:
        """Count a call, or a launch on a grid of a size, that has succeeded.

        Args:
            warmup: whether the kernel was only compiled.
        """
        if self._active and not warmup and not is_empty(size):
            self.entered += 1

    def _make_counting(self) -> Any:
        target = self.target
        if self.is_kernel:
            return CountedLauncher(target, self)

        def counting(*values: Any, **named: Any) -> Any:
            returned = target(*values, **named)
            self._note()
            return returned

        return functools.wraps(target)(counting)

    def count_launches(self, launch: Callable[..., Any], grid: WatchedGrid | None = None) -> Callable[..., Any]:
        """A function that launches a kernel, and counts it.

        Args:
            grid: what the kernel was given before; None: it is an argument of the launch, if there is one.
        """

        def counting(*values: Any, **named: Any) -> Any:
            watched = grid
            if watched is None:
                watched = WatchedGrid(named.get("grid"))
                if "grid" in named:
                    named["grid"] = watched.given
            with self.seeing_errors():
                launched = launch(*values, **named)
            self._note(watched.size, named.get("warmup"))
            return launched

        return counting

    @contextlib.contextmanager
    def seeing_errors(self) -> Iterator[None]:
        """Remember an error of a launch."""
        try:
            yield
        except BaseException:
            self.raised = True
            raise

    @contextlib.contextmanager
    def _replace_run(self) -> Iterator[None]:
        """Count the launches of a kernel of Triton until the block ends."""
        own = vars(self.target)
        before = {"run": own["run"]} if "run" in own else {}
        own["run"] = self.count_launches(self.target.run)
        try:
            yield
        finally:
            del own["run"]
            own.update(before)

    def _see(self, frame: FrameType, event: str, argument: Any) -> None:
        if event == "return" and self.is_class_or_module and frame.f_code is self.code and argument is not None:
            own = frame.f_locals.get("self")
            if isinstance(own, self.target) if isinstance(self.target, type) else own is self.target:
                self._note()
        if event != "call":
            return
        module = frame.f_globals.get("__name__") or ""
        if module.startswith(REFERENCES) and module != ALLOWED and not self._is_ours(frame):
            self.references[f"{module}.{frame.f_code.co_name}"] += 1

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
    """A kernel that is launched with its grid, `kernel[grid](...)`, or as it is, and whose `run` cannot be replaced."""

    def __init__(self, kernel: Any, watch: EntryWatch) -> None:
        self._kernel, self._watch = kernel, watch

    def __getitem__(self, grid: Any) -> Callable[..., Any]:
        watched = WatchedGrid(grid)
        with self._watch.seeing_errors():
            launch = self._kernel[watched.given]
        return self._watch.count_launches(launch, watched)

    def __call__(self, *values: Any, **named: Any) -> Any:
        return self._watch.count_launches(self._kernel)(*values, **named)

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._kernel, name)
        return self._watch.count_launches(found) if name == "run" else found


class WatchedGrid:
    """A grid as a kernel is given it, and its size: of a function what it returned last, 0 until it is called."""

    def __init__(self, grid: Any) -> None:
        self.given = self.size = grid
        if not callable(grid):
            return
        self.size = 0

        @functools.wraps(grid)
        def sized(*values: Any, **named: Any) -> Any:
            self.size = grid(*values, **named)
            return self.size

        self.given = sized


def is_empty(grid: Any) -> bool:
    """Whether a grid has a side below 1, on which nothing runs.

    Where blocks of threads are given beside it, `kernel[(4, 4), (32, 1), 0]`, what follows them is no side.
    """
    sides = list(grid) if isinstance(grid, tuple | list) else [grid]
    if len(sides) > 3 or any(isinstance(side, tuple | list) for side in sides):
        sides = sides[:2]
    return any(is_empty(side) if isinstance(side, tuple | list) else _is_below_1(side) for side in sides)


def _is_below_1(side: Any) -> bool:
    try:
        return operator.index(side) < 1
    except TypeError:
        # Not a number: nothing is known of it.
        return False


def can_replace_run(target: Any) -> bool:
    """Whether an object has a method `run` that another one can stand in for."""
    of_class = getattr(type(target), "run", None)
    has_own = isinstance(getattr(target, "__dict__", None), dict)
    return hasattr(target, "run") and has_own and not hasattr(of_class, "__set__")


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
