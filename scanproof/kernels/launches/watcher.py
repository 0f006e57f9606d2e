"""Watches which kernels are launched in this process: by Triton, and through the entry points of CUDA extensions.

Both are counted where Python starts them, so a CUDA graph counts once, when it is captured.  Start watching before
models are imported: a function that a model has already taken out of its extension
(`from selective_scan_cuda import fwd`) is not seen.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.util
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

from scanproof.kernels.launches import kernel_table, origin
from scanproof.kernels.launches.launched import AutotunerChoice, How, Launch, Launches

LAUNCHERS = (("triton.runtime.jit", "JITFunction"), ("triton.runtime.interpreter", "InterpretedFunction"))
"""Classes whose `run` launches a Triton kernel, on a GPU and in the interpreter."""
AUTOTUNER = ("triton.runtime.autotuner", "Autotuner")
"""Class whose `run` chooses the configuration of a Triton kernel."""


class Observer:
    """Collects what is launched."""

    def __init__(self) -> None:
        self._counts: Counter[tuple[str, How, str | None]] = Counter()
        self._tuners: dict[int, Any] = {}
        self.unavailable: dict[str, str] = {}
        """CUDA extension -> the error when it was imported; only those that could not be imported."""
        self.unprofiled: str | None = "the profiler was not asked"
        """Why the profiler saw no kernel; None if it saw some."""

    def count(self, name: str, how: How, file: str | None = None, times: int = 1) -> None:
        """Add `times` launches.

        Args:
            name: kernel, or entry point with its module.
            how: how the launch was observed.
            file: source of the Triton kernel, or the extension.
        """
        self._counts[name, how, file] += times

    def add_tuner(self, tuner: Any) -> None:
        """Remember an autotuner that has run; `launches` reads its choices."""
        self._tuners[id(tuner)] = tuner

    def launches(self) -> Launches:
        """Everything that was launched and chosen so far, sorted by name."""
        return Launches(
            launched=tuple(_make_launch(*key, count) for key, count in sorted(self._counts.items(), key=str)),
            choices=tuple(choice for tuner in self._tuners.values() for choice in read_choices(tuner)),
            unavailable=dict(self.unavailable),
            unprofiled=self.unprofiled,
        )


@contextlib.contextmanager
def observe() -> Iterator[Observer]:
    """Watch until the block ends.

    It imports torch, and the extensions and Triton if they are installed, but no model.
    """
    # The extensions are linked against torch's libraries, so torch has to be loaded first.
    importlib.import_module("torch")
    observer = Observer()
    with contextlib.ExitStack() as stack:
        with warnings.catch_warnings():
            # Warnings during these imports have nothing to do with the block.
            warnings.simplefilter("ignore")
            for package in kernel_table.PACKAGES:
                if package.extension:
                    _watch_extension(package, observer, stack)
            if importlib.util.find_spec("triton") is not None:
                _watch_triton(observer, stack)
        yield observer


def _watch_extension(package: kernel_table.Package, observer: Observer, stack: contextlib.ExitStack) -> None:
    """Count the calls of an extension's entry points until the stack closes."""
    try:
        module = importlib.import_module(package.extension)
    except (ImportError, OSError) as error:
        observer.unavailable[package.extension] = str(error)
        return
    for kernel in kernel_table.KERNELS:
        for entry in kernel.entries if kernel.distribution == package.distribution else ():
            if callable(getattr(module, entry, None)):
                _replace(stack, module, entry, _count_calls(module, entry, observer))


def _count_calls(module: ModuleType, entry: str, observer: Observer) -> Callable[..., Any]:
    function, name = getattr(module, entry), f"{module.__name__}.{entry}"

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        result = function(*args, **kwargs)
        observer.count(name, "extension", getattr(module, "__file__", None))
        return result

    return call


def _watch_triton(observer: Observer, stack: contextlib.ExitStack) -> None:
    """Count Triton's launches and collect its autotuners until the stack closes."""
    for module, name in LAUNCHERS:
        launcher = getattr(importlib.import_module(module), name)
        _replace(stack, launcher, "run", _count_launches(launcher.run, observer))
    tuner = getattr(importlib.import_module(AUTOTUNER[0]), AUTOTUNER[1])
    _replace(stack, tuner, "run", _record_tuner(tuner.run, observer))


def _count_launches(run: Callable[..., Any], observer: Observer) -> Callable[..., Any]:
    @functools.wraps(run)
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        result = run(self, *args, **kwargs)
        if not kwargs.get("warmup"):
            observer.count(self.fn.__name__, "triton", self.fn.__code__.co_filename)
        return result

    return call


def _record_tuner(run: Callable[..., Any], observer: Observer) -> Callable[..., Any]:
    @functools.wraps(run)
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        result = run(self, *args, **kwargs)
        observer.add_tuner(self)
        return result

    return call


def _replace(stack: contextlib.ExitStack, owner: Any, name: str, new: Any) -> None:
    """Replace an attribute until the stack closes."""
    stack.callback(setattr, owner, name, getattr(owner, name))
    setattr(owner, name, new)


def read_choices(tuner: Any) -> list[AutotunerChoice]:
    """Read what a `triton.runtime.autotuner.Autotuner` that has run chose for each key.

    If it has a single configuration there is nothing to choose, and the key is empty.
    """
    chosen = dict(tuner.cache) or {(): tuner.best_config}
    return [
        AutotunerChoice(kernel=tuner.base_fn.__name__, key=tuple(map(str, key)), config=_read_settings(config))
        for key, config in chosen.items()
    ]


def _read_settings(config: Any) -> dict[str, Any]:
    storable = (str, int, float, bool)
    return {name: value if isinstance(value, storable) else str(value) for name, value in config.all_kwargs().items()}


def _make_launch(name: str, how: How, file: str | None, count: int) -> Launch:
    distribution = None if file is None else origin.distribution_of(file)
    module = None if file is None else origin.module_of(file)
    return Launch(name=name, how=how, count=count, file=file, distribution=distribution, module=module)
