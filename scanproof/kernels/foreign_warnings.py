"""Shows warnings of the packages under test instead of turning them into errors; our own warnings stay errors.

The suite runs with warnings as errors, but a warning of torch or a kernel package on a GPU is not a wrong result.
Python's filters match the module that a warning is attributed to, which is not enough here: PyTorch attributes its
warnings to its own module, to its caller (`stacklevel`), or, from C++, to the Python line that was running.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

PACKAGES = ("torch", "triton", "mamba_ssm", "causal_conv1d", "flash_attn", "fla")
FROM_CPP = r"(?s).*\(Triggered internally at "
"""PyTorch ends a warning from C++ with the source line that issued it."""


class RaisedIn:
    """Stands for the module pattern in a filter of `warnings`; matches if one of the packages issued the warning.

    It looks at the call stack, not at the module that the warning is attributed to.
    """

    def __init__(self, packages: tuple[str, ...]) -> None:
        self.packages = packages

    def match(self, module: str) -> bool:
        """Whether the warning that is being issued comes from one of the packages.

        Between this call and the code that warns there are only frames of Python's own `warnings` module.
        """
        frame = sys._getframe(1)
        while frame.f_back is not None and frame.f_globals.get("__name__") in ("warnings", "_py_warnings"):
            frame = frame.f_back
        return str(frame.f_globals.get("__name__", "")).partition(".")[0] in self.packages


@contextmanager
def show_package_warnings() -> Iterator[None]:
    """In the block, show the packages' warnings; all other warnings are handled by the filters that are set."""
    with warnings.catch_warnings():
        warnings.filterwarnings("default", message=FROM_CPP)
        by_code: Any = ("default", None, Warning, RaisedIn(PACKAGES), 0)
        filters: Any = warnings.filters
        filters.insert(0, by_code)
        yield
