"""Errors of a history: one that ends a command, and the files that are skipped and reported."""

from __future__ import annotations

from dataclasses import dataclass

from scanproof.printable import LONGEST, make_printable


class HistoryError(Exception):
    """Something in a history cannot be used; the message names it, says what is wrong and what to do."""

    def __init__(self, message: str, remedy: str = "") -> None:
        super().__init__(make_printable(message, LONGEST, lines=True))
        self.remedy = remedy
        """What to do, in one line, where the message does not say it."""


@dataclass(frozen=True)
class Problem:
    """A file or run that was skipped, or is to be named."""

    path: str
    because: str
    lost: bool = True
    """Something of the history cannot be used, and no process that is still writing it will mend that."""

    def __str__(self) -> str:
        return make_printable(f"{self.path}: {self.because}", LONGEST)
