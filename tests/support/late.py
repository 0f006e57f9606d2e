"""Modules that are imported at their first use, so that collecting the tests does not wait for torch."""

from __future__ import annotations

from importlib import import_module
from typing import Any


class Late:
    """Stands in for a module; the first public attribute that is asked for imports it.

    importlib's LazyLoader would put the name into `sys.modules` at once and import the parents of a submodule.
    """

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, attribute: str) -> Any:
        # While collecting, pytest asks everything in a test module for marks of its own.
        if attribute.startswith("_"):
            raise AttributeError(attribute)
        return getattr(import_module(self._name), attribute)
