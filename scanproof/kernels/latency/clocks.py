"""The SM clock and why the driver holds it down, read through NVML.  Nothing is ever set."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from scanproof.kernels.launches import kernel_table

ClockReading = tuple[float, tuple[str, ...]]
"""SM clock in MHz, reasons to hold it down."""

REASONS: Mapping[int, str] = MappingProxyType(
    {
        0x04: "software power cap",
        0x08: "hardware slowdown",
        0x20: "software thermal slowdown",
        0x40: "hardware thermal slowdown",
        0x80: "hardware power brake",
    }
)
"""Bits of NVML's clock event reasons that slow a busy device; others say that it idles or how clocks are set."""


def throttle_reasons(mask: int) -> tuple[str, ...]:
    """The reasons in a mask of NVML."""
    return tuple(name for bit, name in REASONS.items() if mask & bit)


class ClockError(Exception):
    """The clock cannot be read; the message says why."""


@dataclass
class ClockReader:
    """Reads the clock while a device works; `ask` is None where it cannot be read, or no longer."""

    ask: Callable[[], ClockReading] | None = None
    """Raises ClockError."""
    why_not: str = ""
    seen: list[ClockReading] = field(default_factory=list)

    def read(self) -> None:
        """Keep one reading.  The first that fails is the last: a driver may take seconds to say no."""
        if self.ask is None:
            return
        try:
            self.seen.append(self.ask())
        except ClockError as error:
            self.ask, self.why_not = None, f"not read: {error}"


def make_reader(device: str) -> ClockReader:
    """A reader of the clock of the current device."""
    if device != "cuda":
        return ClockReader(why_not="not read on a processor")
    try:
        import pynvml
    except ImportError:
        return ClockReader(why_not=f"not read: {kernel_table.INSTALL_EXTRA}")
    import torch

    refusals = (pynvml.NVMLError, AttributeError)
    try:
        pynvml.nvmlInit()
        handle = pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{torch.cuda.get_device_properties('cuda').uuid}")
    except refusals as error:
        return ClockReader(why_not=f"not read: {error}")

    def ask() -> ClockReading:
        try:
            speed = pynvml.nvmlDeviceGetClockInfo(handle, pynvml.NVML_CLOCK_SM)
            return float(speed), throttle_reasons(pynvml.nvmlDeviceGetCurrentClocksThrottleReasons(handle))
        except refusals as error:
            raise ClockError(str(error)) from error

    found = ClockReader(ask)
    found.read()
    found.seen.clear()
    return found
