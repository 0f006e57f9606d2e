"""Errors of a history: one that ends a command, and the files that are skipped and reported."""

from __future__ import annotations

from dataclasses import dataclass


class HistoryError(Exception):
    """Something in a history cannot be used; the message names it, says what is wrong and what to do."""


@dataclass(frozen=True)
class Problem:
    """A file or run that was skipped."""

    path: str
    because: str

    def __str__(self) -> str:
        return f"{self.path}: {self.because}"
