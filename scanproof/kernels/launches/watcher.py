"""Watches which kernels are launched in this process: by Triton, and through the entry points of CUDA extensions.

Both are counted where Python starts them, so that a CUDA graph counts once, when it is captured.  A function that was
taken out of its extension before (`from selective_scan_cuda import fwd`) is not seen: watch before models are
imported.
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


class Observer:
    """What was seen so far."""

    def __init__(self) -> None:
        self._counts: Counter[tuple[str, How, str | None]] = Counter()
        self._tuners: dict[int, Any] = {}
        self.unavailable: dict[str, str] = {}
        """CUDA extension -> why it cannot be imported."""
        self.unprofiled: str | None = "the profiler was not asked"
        """Why the profiler saw nothing, or None."""

    def count(self, name: str, how: How, file: str | None = None, times: int = 1) -> None:
        """One more launch, or `times` more."""
        self._counts[name, how, file] += times

    def add_tuner(self, tuner: Any) -> None:
        """An autotuner has run."""
        self._tuners[id(tuner)] = tuner

    def launches(self) -> Launches:
        """Everything seen so far, by name."""
        return Launches(
            launched=tuple(_launch(*key, count) for key, count in sorted(self._counts.items(), key=str)),
            choices=tuple(choice for tuner in self._tuners.values() for choice in read_choices(tuner)),
            unavailable=dict(self.unavailable),
            unprofiled=self.unprofiled,
        )


@contextlib.contextmanager
def observe() -> Iterator[Observer]:
    """Watch until the block ends.  It imports the extensions and Triton, where they are installed, and nothing else."""
    # The extensions are linked against torch's libraries, which have to be loaded before.
    importlib.import_module("torch")
    observer = Observer()
    with contextlib.ExitStack() as stack:
        with warnings.catch_warnings():
            # What a package warns of while it is imported is none of the block's business.
            warnings.simplefilter("ignore")
            for package in kernel_table.PACKAGES:
                _watch_extension(package, observer, stack)
            if importlib.util.find_spec("triton") is not None:
                _watch_triton(observer, stack)
        yield observer


def _watch_extension(package: kernel_table.Package, observer: Observer, stack: contextlib.ExitStack) -> None:
    try:
        module = importlib.import_module(package.extension)
    except (ImportError, OSError) as error:
        observer.unavailable[package.extension] = str(error)
        return
    for kernel in kernel_table.KERNELS:
        for entry in kernel.entries if kernel.distribution == package.distribution else ():
            if callable(getattr(module, entry, None)):
                _replace(stack, module, entry, _counted(module, entry, observer))


def _counted(module: ModuleType, entry: str, observer: Observer) -> Callable[..., Any]:
    function, name = getattr(module, entry), f"{module.__name__}.{entry}"

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        result = function(*args, **kwargs)
        observer.count(name, "extension", getattr(module, "__file__", None))
        return result

    return call


def _watch_triton(observer: Observer, stack: contextlib.ExitStack) -> None:
    for module, name in LAUNCHERS:
        launcher = getattr(importlib.import_module(module), name)
        _replace(stack, launcher, "run", _launching(launcher.run, observer))
    tuner = getattr(importlib.import_module(AUTOTUNER[0]), AUTOTUNER[1])
    _replace(stack, tuner, "run", _tuning(tuner.run, observer))


def _launching(run: Callable[..., Any], observer: Observer) -> Callable[..., Any]:
    @functools.wraps(run)
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        result = run(self, *args, **kwargs)
        if not kwargs.get("warmup"):
            observer.count(self.fn.__name__, "triton", self.fn.__code__.co_filename)
        return result

    return call


def _tuning(run: Callable[..., Any], observer: Observer) -> Callable[..., Any]:
    @functools.wraps(run)
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        result = run(self, *args, **kwargs)
        observer.add_tuner(self)
        return result

    return call


def _replace(stack: contextlib.ExitStack, owner: Any, name: str, new: Any) -> None:
    stack.callback(setattr, owner, name, getattr(owner, name))
    setattr(owner, name, new)


def read_choices(tuner: Any) -> list[AutotunerChoice]:
    """What a `triton.runtime.autotuner.Autotuner` that ran chose, for each key; one without a choice has no key."""
    chosen = dict(tuner.cache) or {(): tuner.best_config}
    return [
        AutotunerChoice(kernel=tuner.base_fn.__name__, key=tuple(map(str, key)), config=_settings(config))
        for key, config in chosen.items()
    ]


def _settings(config: Any) -> dict[str, Any]:
    plain = (str, int, float, bool)
    return {name: value if isinstance(value, plain) else str(value) for name, value in config.all_kwargs().items()}


def _launch(name: str, how: How, file: str | None, count: int) -> Launch:
    distribution = None if file is None else origin.distribution_of(file)
    module = None if file is None else origin.module_of(file)
    return Launch(name=name, how=how, count=count, file=file, distribution=distribution, module=module)
