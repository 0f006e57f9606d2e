"""Problems in the files of `expected/`, in words for the person who edits them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


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
        place = f"{self.file}:{self.line}"
        return f"{place}: {self.key}: {self.message}" if self.key else f"{place}: {self.message}"


class ExpectedError(Exception):
    """Files of expected values cannot be used.  It has every problem of every file."""

    def __init__(self, problems: Iterable[FileProblem]) -> None:
        self.problems: tuple[FileProblem, ...] = tuple(problems)
        super().__init__(self.problems)

    def __str__(self) -> str:
        return "\n".join(str(problem) for problem in self.problems)
