"""Delta debugging over sets of packages (Zeller and Hildebrandt, IEEE Trans. Softw. Eng. 28, 2002).  Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import pairwise


class MixtureOutcome(StrEnum):
    """How the number came out in one mixture of packages."""

    GOOD = "good"
    BAD = "bad"
    UNRESOLVED = "unresolved"
    """The mixture cannot be built, or the run broke: it says nothing about the number."""


Test = Callable[[frozenset[str]], MixtureOutcome]
"""The outcome with these packages as in the bad environment and all others as in the good one."""


@dataclass(frozen=True)
class SearchResult:
    """What the search found."""

    packages: tuple[str, ...]
    """No smaller choice of them that could be tried moves the number; empty where nothing was to be found."""
    alone: bool | None
    """Whether the number is good with all the others as in the bad environment; None where that could not be tried."""
    because: str


def search(packages: Sequence[str], test: Test) -> SearchResult:
    """The smallest set of packages that moves the number, from those that differ.

    The whole environments are tried first: without a good and a bad end there is nothing between them.
    """
    if not packages:
        return SearchResult((), None, "the two environments hold the same versions")
    first, last = test(frozenset()), test(frozenset(packages))
    if first is not MixtureOutcome.GOOD:
        return SearchResult((), None, f"the good environment is not good here: {first.value}")
    if last is not MixtureOutcome.BAD:
        return SearchResult((), None, f"the bad environment does not show the fault here: {last.value}")
    smallest_set = smallest(tuple(packages), test)
    rest = frozenset(packages) - frozenset(smallest_set)
    without = test(rest)
    alone = None if without is MixtureOutcome.UNRESOLVED else without is MixtureOutcome.GOOD
    return SearchResult(smallest_set, alone, conclusion(smallest_set, alone))


def conclusion(packages: tuple[str, ...], alone: bool | None) -> str:
    """The conclusion about the packages that were found."""
    names = " and ".join(packages)
    if len(packages) > 1:
        said = f"{names} together move the number; no part of them that could be tried does"
    else:
        said = f"{names} alone moves the number"
    if alone:
        return f"{said}, and with all others as in the bad environment it is good"
    if alone is False:
        return f"{said}; so does something else: without it the bad environment is still bad"
    return f"{said}; whether it is the only one could not be tried"


def smallest(packages: tuple[str, ...], test: Test) -> tuple[str, ...]:
    """A set that moves the number; leaving out any one package stops that, as far as it could be tried."""
    pieces = 2
    while len(packages) > 1:
        smaller = next(
            (part for part in candidates(packages, pieces) if test(frozenset(part)) is MixtureOutcome.BAD), None
        )
        if smaller is not None:
            # A complement keeps the granularity, as in the paper; a piece starts anew.
            pieces = max(pieces - 1, 2) if len(smaller) > -(-len(packages) // pieces) else 2
            packages = smaller
        elif pieces >= len(packages):
            break
        else:
            pieces = min(2 * pieces, len(packages))
    return packages


def candidates(packages: tuple[str, ...], pieces: int) -> Iterator[tuple[str, ...]]:
    """Each piece, then all but each piece."""
    parts = split(packages, pieces)
    yield from parts
    if pieces > 2:
        yield from (tuple(name for name in packages if name not in part) for part in parts)


def split(packages: tuple[str, ...], pieces: int) -> list[tuple[str, ...]]:
    """Split packages into this many pieces of nearly equal size."""
    size, more = divmod(len(packages), pieces)
    ends = [0]
    for place in range(pieces):
        ends.append(ends[-1] + size + (place < more))
    return [packages[start:end] for start, end in pairwise(ends) if end > start]
