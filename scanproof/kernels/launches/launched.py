"""Records of what an evaluation launched on the GPU, as they are stored with its results."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

How = Literal["triton", "extension", "profiler"]
SettingValue = str | int | float | bool | None


@dataclass(frozen=True, kw_only=True)
class Launch:
    """One kernel, or one entry point of a CUDA extension, how often it was launched, and where it comes from."""

    name: str
    """A kernel's name without types and arguments, or an entry point with its module: `selective_scan_cuda.fwd`."""
    how: How
    """How the launch was seen: by Triton (`triton`), by a call of an extension (`extension`), or by PyTorch's
    profiler (`profiler`)."""
    count: int
    """Number of launches.  Those in Triton's autotuning are counted, replays of a CUDA graph are not.  The profiler
    sees only the first batch of each kind of request."""
    file: str | None = None
    """The file of the Triton kernel's source, or of the extension; None: the profiler does not know it."""
    distribution: str | None = None
    """The installed kernel package that contains the file; None: the file is not part of one."""
    module: str | None = None
    """The top-level module of the kernel packages whose files, as `import` finds them, include the file; None: none."""


@dataclass(frozen=True, kw_only=True)
class AutotunerChoice:
    """What Triton's autotuner chose for a kernel and a key."""

    kernel: str
    key: tuple[str, ...]
    """The sizes and dtypes that the choice is for."""
    config: dict[str, SettingValue]
    """The chosen settings: block sizes, num_warps, num_stages, ..."""


@dataclass(frozen=True, kw_only=True)
class Launches:
    """All launches and choices that were observed in one evaluation."""

    launched: tuple[Launch, ...] = ()
    choices: tuple[AutotunerChoice, ...] = ()
    unavailable: dict[str, str] = field(default_factory=dict)
    """CUDA extension -> the error when it was imported; only those that could not be imported."""
    unprofiled: str | None = None
    """Why PyTorch's profiler saw no kernel; None if it saw some."""
