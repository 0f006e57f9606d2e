"""Lets Triton's autotuners choose at the size that is timed, and keeps what they chose.

An autotuner chooses once for each value of its key, and mamba-ssm's keys hold neither seqlen nor batch: whoever comes
first, with whatever size, chooses for all.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
from collections.abc import Callable, Iterator
from typing import Any

from scanproof.kernels.launches import watcher
from scanproof.kernels.launches.launched import AutotunerChoice


def choose(call: Callable[[], object]) -> tuple[AutotunerChoice, ...]:
    """Run a call in which each autotuner that it reaches chooses anew; the choices, which hold for later calls.

    What lies on disk from other processes is not taken either, and nothing is left there: the key is the same.
    """
    with watcher.observe() as observer, _forgetting():
        call()
    return observer.launches().choices


@contextlib.contextmanager
def _forgetting() -> Iterator[None]:
    """In the block an autotuner forgets, when it is first launched, what it chose before."""
    module, name = watcher.AUTOTUNER
    if importlib.util.find_spec("triton") is None:
        yield
        return
    tuner = getattr(importlib.import_module(module), name)
    on_disk: dict[Any, Any] = {}
    run = tuner.run

    @functools.wraps(run)
    def forget_and_run(self: Any, *args: Any, **kwargs: Any) -> Any:
        if self not in on_disk:
            on_disk[self] = getattr(self, "cache_results", None)
            self.cache_results = False
            self.cache.clear()
        return run(self, *args, **kwargs)

    tuner.run = forget_and_run
    try:
        yield
    finally:
        tuner.run = run
        for each, value in on_disk.items():
            each.cache_results = value
