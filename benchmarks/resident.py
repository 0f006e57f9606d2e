"""Memory of this process, as Linux tells it; for `benchmarks/loading.py` and `benchmarks/scoring.py`."""

from __future__ import annotations

from pathlib import Path

PROCESS = Path("/proc/self")
RESET_PEAK = "5"
"""What `clear_refs` takes to begin a new peak (proc(5))."""


def resident(name: str) -> int:
    """Bytes of a line of `/proc/self/status`: `VmRSS`, what is in memory now, or `VmHWM`, the most since the reset."""
    lines = (PROCESS / "status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))


def begin_peak() -> int:
    """Forget the peak so far; returns the bytes in memory now.  Files that are mapped count where they were read."""
    (PROCESS / "clear_refs").write_text(RESET_PEAK)
    return resident("VmRSS")
