"""A pytest plugin, `-p tests.support.as_if_on_gpu`: kernel tests take the way of a GPU, with PyTorch forms on the CPU.

So what is asked of a GPU alone, such as its free memory, is gone through anywhere.  No kernel runs, and none is proven.
The variable FREE_AND_TOTAL says how many GiB of memory are free and how many there are, 80 of 80 without it.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    # Not before pytest registers that module itself: its assertions would not be rewritten.
    from scanproof.plugin.kernel_fixtures import Kernels, Proven


class AsIfOnGpu:
    """Fixtures in place of scanproof's own."""

    @pytest.fixture
    def scanproof_kernels(self, scanproof_place: str) -> Kernels:
        from scanproof.kernels.latency import timed_calls
        from scanproof.plugin.kernel_fixtures import Kernels

        return Kernels(scanproof_place, "cpu", timed_calls.pytorch_form)

    @pytest.fixture
    def scanproof_proven(self) -> Proven:
        def prove(name: str, needed: Iterable[str]) -> AbstractContextManager[None]:
            return nullcontext()

        return prove

    @pytest.fixture(autouse=True)
    def large_gpu(self, monkeypatch: pytest.MonkeyPatch) -> None:
        from scanproof.kernels import device

        free, total = (int(gibibytes) * 2**30 for gibibytes in os.environ.get("FREE_AND_TOTAL", "80 80").split())
        monkeypatch.setattr(device, "free_bytes", lambda: free)
        monkeypatch.setattr(device, "total_bytes", lambda: total)


def pytest_configure(config: pytest.Config) -> None:
    # Registered after scanproof's plugin: of two fixtures of one name the later one counts.
    config.pluginmanager.register(AsIfOnGpu())
