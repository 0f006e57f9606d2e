"""Asks PyTorch's profiler for the names of the kernels that the GPU ran, in the first batch of each kind of request.

Profiling a whole evaluation would keep millions of events in memory.  The other batches launch the same kernels.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from typing import Any

from scanproof.kernels import foreign_warnings
from scanproof.kernels.launches.watcher import Observer

_NOT_KERNELS = ("Memcpy", "Memset")
_TEMPLATE = re.compile(r"<[^<>]*>")


class FirstBatch:
    """Profiles from `start` to the next `stop`; calls of either at another time do nothing."""

    def __init__(self, observer: Observer) -> None:
        self._observer = observer
        self._profile: Any = None

    def start(self) -> None:
        """Start profiling if there is a GPU; if the profiler cannot be used, the observer gets the reason."""
        import torch

        if not torch.cuda.is_available() or self._profile is not None:
            return
        try:
            with foreign_warnings.show_package_warnings():
                profile = torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA])
                profile.start()
        except Exception as error:
            # A failure of the profiler is not a failure of the evaluation that it watches.
            self._observer.unprofiled = f"{type(error).__name__}: {error}"
            return
        self._profile = profile

    def stop(self) -> None:
        """Stop profiling, and give the observer the kernels that ran."""
        if self._profile is None:
            return
        import torch

        profile, self._profile = self._profile, None
        # Outside of the `try`: an error of the device belongs to the evaluation, not to the profiler.
        torch.cuda.synchronize()
        try:
            with foreign_warnings.show_package_warnings():
                profile.stop()
                events = profile.events()
        except Exception as error:
            self._observer.unprofiled = f"{type(error).__name__}: {error}"
            return
        names = count_kernels(event.name for event in events if event.device_type.name == "CUDA")
        for name, count in names.items():
            self._observer.count(name, "profiler", times=count)
        self._observer.unprofiled = None if names else "the profiler saw no kernel"


def count_kernels(events: Iterable[str]) -> Counter[str]:
    """Count kernels by short name, from the names of the profiler's device events."""
    return Counter(shorten_name(event) for event in events if not event.startswith(_NOT_KERNELS))


def shorten_name(name: str) -> str:
    """Reduce a kernel's name: no return type, template arguments and parameters; namespaces stay.

    `void flash::flash_fwd_kernel<Traits<64>, true>(Params)` becomes `flash::flash_fwd_kernel`.
    """
    name = name.replace("(anonymous namespace)::", "").replace("::operator<<", "::operator")
    while (shorter := _TEMPLATE.sub("", name)) != name:
        name = shorter
    words = name.partition("(")[0].split()
    return words[-1] if words else name
