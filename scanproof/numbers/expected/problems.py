"""Problems in the files of `expected/`, in words for the person who edits them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from scanproof.printable import LONGEST, make_printable

LONGEST_KEY = 200
"""Characters of a dotted path of keys in a message."""
MOST = 200
"""Problems that are listed."""


@dataclass(frozen=True)
class FileProblem:
    """One mistake in one expected file."""

    file: str
    """The file, as the user can open it."""
    line: int
    """Line of the offending key, counted from 1."""
    key: str
    """Dotted path of the offending key, `values.3.printed`; empty for the whole file."""
    message: str
    """What is wrong and what to write instead."""

    def __str__(self) -> str:
        place = f"{make_printable(self.file, LONGEST)}:{self.line}"
        key = f"{make_printable(self.key, LONGEST_KEY)}: " if self.key else ""
        return f"{place}: {key}{make_printable(self.message, LONGEST)}"


class ExpectedError(Exception):
    """Files of expected values cannot be used.  It has every problem of every file."""

    def __init__(self, problems: Iterable[FileProblem]) -> None:
        self.problems: tuple[FileProblem, ...] = tuple(problems)
        super().__init__(self.problems)

    def __str__(self) -> str:
        more = len(self.problems) - MOST
        listed = [str(problem) for problem in self.problems[:MOST]]
        return "\n".join([*listed, *([f"and {more} more"] if more > 0 else [])])
