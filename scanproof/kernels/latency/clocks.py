"""Reads a GPU's SM clock, and why the driver throttles it, through NVML.  It never changes a setting."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from scanproof.kernels.launches import kernel_table

ClockReading = tuple[float, tuple[str, ...]]
"""SM clock in MHz, and the reasons why it is throttled."""

REASONS: Mapping[int, str] = MappingProxyType(
    {
        0x04: "software power cap",
        0x08: "hardware slowdown",
        0x20: "software thermal slowdown",
        0x40: "hardware thermal slowdown",
        0x80: "hardware power brake",
    }
)
"""Bits of NVML's clock event reasons that slow down a busy device.  The other bits say that the device is idle, or
how its clocks are set."""


def throttle_reasons(mask: int) -> tuple[str, ...]:
    """Name the throttle reasons in a bit mask of NVML."""
    return tuple(name for bit, name in REASONS.items() if mask & bit)


class ClockError(Exception):
    """The clock cannot be read; the message says why."""


@dataclass
class ClockReader:
    """Reads the clock while a device works, and keeps the readings."""

    ask: Callable[[], ClockReading] | None = None
    """Reads once; raises ClockError.  None: the clock cannot be read, or no longer."""
    why_not: str = ""
    """Why the clock cannot be read; empty while it can."""
    seen: list[ClockReading] = field(default_factory=list)
    """All readings."""

    def read(self) -> None:
        """Read the clock once and keep the reading.

        After a failure it is not read again, because a driver may need seconds to refuse.
        """
        if self.ask is None:
            return
        try:
            self.seen.append(self.ask())
        except ClockError as error:
            self.ask, self.why_not = None, f"not read: {error}"


def make_reader(device: str) -> ClockReader:
    """Make a reader for the clock of the current device of a kind, `cuda` or `cpu`."""
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

    # The first reading finds out whether the clock can be read at all; it belongs to no measurement.
    reader = ClockReader(ask)
    reader.read()
    reader.seen.clear()
    return reader
