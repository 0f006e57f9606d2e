"""Makes Triton's autotuners choose at the size that is timed, and records what they chose.

An autotuner chooses once for each value of its key.  mamba-ssm's keys contain neither the sequence length nor the
batch size, so without this the first call, of whatever size, would choose for all later sizes.
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
    """Run a call in which each autotuner that it reaches chooses again; return the choices, which later calls keep.

    Triton's cache on disk is neither read nor written, because its entries are not distinguished by size either.
    """
    with watcher.observe() as observer, _forgetting():
        call()
    return observer.launches().choices


@contextlib.contextmanager
def _forgetting() -> Iterator[None]:
    """In the block, make each autotuner forget its earlier choices when it is first launched."""
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
        for autotuner, cache_results in on_disk.items():
            autotuner.cache_results = cache_results
