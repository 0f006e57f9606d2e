"""What an evaluation launched on the GPU, as it is stored."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

How = Literal["triton", "extension", "profiler"]
Setting = str | int | float | bool | None


@dataclass(frozen=True, kw_only=True)
class Launch:
    """One kernel, or one entry point of a CUDA extension, and where it came from."""

    name: str
    """A kernel's name without types and arguments, or an entry point with its module: `selective_scan_cuda.fwd`."""
    how: How
    """How it was seen: launched by Triton, called in an extension, or named by PyTorch's profiler."""
    count: int
    """How often; Triton's benchmarks of configurations included, replays of a CUDA graph not.  The profiler sees the
    first batch of each kind of request only."""
    file: str | None = None
    """The Triton kernel's source, or the extension; the profiler cannot tell."""
    distribution: str | None = None
    """The installed kernel package that holds the file; None: it comes from elsewhere."""
    module: str | None = None
    """The top-level module that holds the file, as `import` finds it here; None: `import` finds no such file."""


@dataclass(frozen=True, kw_only=True)
class AutotunerChoice:
    """What Triton's autotuner chose for a kernel."""

    kernel: str
    key: tuple[str, ...]
    """Sizes and dtypes that it chose for."""
    config: dict[str, Setting]
    """Block sizes, num_warps, num_stages, ..."""


@dataclass(frozen=True, kw_only=True)
class Launches:
    """Everything that was seen."""

    launched: tuple[Launch, ...] = ()
    choices: tuple[AutotunerChoice, ...] = ()
    unavailable: dict[str, str] = field(default_factory=dict)
    """CUDA extension -> why it cannot be imported."""
    unprofiled: str | None = None
    """Why PyTorch's profiler saw nothing, or None."""
