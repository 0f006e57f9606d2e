"""What packages under test warn of on a GPU is shown and is no wrong result; what our own code warns of stays as it is.

PyTorch warns in three ways, and Python's filters know only the place that a warning is attributed to: its own module,
whoever called it (`stacklevel`), or, from C++, the Python line that was running.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

PACKAGES = ("torch", "triton", "mamba_ssm", "causal_conv1d", "flash_attn")
FROM_CPP = r"(?s).*\(Triggered internally at "
"""PyTorch ends what it warns of in C++ with the place."""


class RaisedIn:
    """In a filter of `warnings`, in the place of a pattern for the module: matches by the code that warns.

    The stack decides, not the module that the warning is attributed to.
    """

    def __init__(self, packages: tuple[str, ...]) -> None:
        self.packages = packages

    def match(self, module: str) -> bool:
        """Called while a warning is issued; above this frame there is only Python's own module for warnings."""
        frame = sys._getframe(1)
        while frame.f_back is not None and frame.f_globals.get("__name__") in ("warnings", "_py_warnings"):
            frame = frame.f_back
        return str(frame.f_globals.get("__name__", "")).partition(".")[0] in self.packages


@contextmanager
def show_package_warnings() -> Iterator[None]:
    """Show what the packages warn of, whatever filters there are; all other warnings meet those filters."""
    with warnings.catch_warnings():
        warnings.filterwarnings("default", message=FROM_CPP)
        by_code: Any = ("default", None, Warning, RaisedIn(PACKAGES), 0)
        filters: Any = warnings.filters
        filters.insert(0, by_code)
        yield
