"""What a GPU's environment has to have installed."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec

from scanproof.kernels.launches import kernel_table


def need(place: str, missing: Callable[[str], None], *packages: str) -> None:
    """On a GPU, stop unless the packages are there."""
    if place != "gpu":
        return
    if lacking := [package for package in packages if find_spec(package) is None]:
        rows = [row for row in kernel_table.PACKAGES if row.modules[0] in lacking]
        install = f"{kernel_table.INSTALL_EXTRA} && {kernel_table.install_command(*rows)}"
        missing(f"needs {' and '.join(lacking)}, which are not installed here: {install}")
