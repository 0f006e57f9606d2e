"""transformers 5.24 calls a model's cache `cache`, in arguments and in outputs; it was `past_key_values` before."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

NEW, OLD = "cache", "past_key_values"


def name_cache(forward: Callable[..., Any]) -> str:
    """The name of the argument through which a model's `forward` takes its cache.

    Both names may be passed to any release: the one that it does not know goes on as one more keyword argument, to
    layers that do not look at it.
    """
    return NEW if NEW in inspect.signature(forward).parameters else OLD


def read_cache(output: Any) -> Any:
    """The cache in a model's output; None if there is none."""
    return getattr(output, NEW if NEW in output else OLD, None)
