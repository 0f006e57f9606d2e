"""The kernels that a test of several operations has to see launched."""

from __future__ import annotations

from scanproof.kernels.launches import kernel_table


def list_forward_kernels(*operations: str) -> tuple[str, ...]:
    """The kernels that these operations have to launch in their forward passes, each once."""
    return tuple(dict.fromkeys(name for each in operations for name in kernel_table.find_operation(each).forward))
