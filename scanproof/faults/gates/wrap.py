"""Replaces one function of a package by another."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def wrap(owner: Any, name: str, around: Callable[..., Any]) -> None:
    """Replace a function by one that gets the right function and its arguments."""
    right = getattr(owner, name)
    setattr(owner, name, lambda *args, **options: around(right, *args, **options))
