"""What an installed operation is known to get wrong: which results, and by how much at most."""

from __future__ import annotations

import builtins
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from pydantic import BaseModel, ConfigDict, Field

if TYPE_CHECKING:
    from scanproof.kernels.criterion import ResultComparison


@dataclass(frozen=True)
class KnownDefect:
    """Why a case is known to fail, and the results that are wrong with the bounds of their errors.

    A result has one bound: `rms` where its values are others, `times` where it loses digits.  Where offsets wrap, there
    is none: it depends on what lies in memory, which elements are wrong and whether the device ends the process.
    """

    because: str
    rms: Mapping[str, float]
    """Result -> the largest rms error, as a share of the reference's rms."""
    times: Mapping[str, float]
    """Result -> the largest error, rms or worst, as a multiple of what is allowed."""
    wraps: bool = False
    """Whether it reads and writes outside of its tensors: any result may be wrong, an argument may be overwritten, and
    the process may end with an illegal access."""
    unwritten: tuple[str, ...] = ()
    """Results of which it does not write a part.  What is there then has no bound: new memory is NaN while it runs."""

    @property
    def results(self) -> frozenset[str]:
        return frozenset((*self.rms, *self.times, *self.unwritten))

    def list_differences(self, comparisons: Iterable[ResultComparison]) -> list[str]:
        """Say how what failed differs from what is known, one line for each such result; empty when nothing does."""
        if self.wraps:
            return []
        failed = [comparison for comparison in comparisons if not comparison.passed]
        return [line for comparison in failed if (line := self._describe_difference(comparison))]

    def _describe_difference(self, comparison: ResultComparison) -> str | None:
        name = comparison.result
        if name in self.unwritten:
            if comparison.of_written is None:
                return f"{name}: is known to be unwritten in part, and is not"
            wrong = f"{name}: is known to be unwritten in part, and what is written is wrong: {comparison}"
            return None if comparison.is_right_where_written else wrong
        if name in self.rms:
            error, bound = comparison.error.rms, self.rms[name]
            unit = "of the reference's rms"
        elif name in self.times:
            error, bound = comparison.times_allowed, self.times[name]
            unit = "times what is allowed"
        else:
            return f"{name} is not known to be wrong; known are {', '.join(sorted(self.results)) or 'no results'}"
        # Written so that an error that is no number is beyond every bound.
        return None if error <= bound else f"{name}: its error is {error:.3g} {unit}, and known is at most {bound:g}"


OF_THE_MACHINE = (ImportError, MemoryError, OSError)
"""Errors that say what the machine lacks, and nothing of an operation."""


def split_error(text: str) -> tuple[type[Exception], str]:
    """The type of an error and words of its message, from `TYPE: WORDS`, as the last line of a traceback has them.

    Raises:
        ValueError: it does not begin with a type of Python's own, or with one that is about the machine.
    """
    name, _, words = text.partition(": ")
    kind: object = getattr(builtins, name, None)
    if words and isinstance(kind, type) and issubclass(kind, Exception) and not issubclass(kind, OF_THE_MACHINE):
        return kind, words
    raise ValueError(f"write a type of Python's own and words of the message, RuntimeError: WORDS, not {text!r}")


Bound = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class KnownForm(BaseModel):
    """What stands under `known:` and a dtype."""

    model_config = ConfigDict(strict=True, extra="forbid")

    because: Annotated[str, Field(min_length=1)]
    rms: dict[str, Bound] = {}
    times: dict[str, Annotated[Bound, Field(gt=1)]] = {}
    wraps: bool = False
    unwritten: list[str] = []

    def find_mistake(self, raises: bool, alone: bool) -> str | None:
        """What is wrong with the results that it names; None if nothing is.

        Args:
            raises: the operation is known to raise an error, and not to return a wrong result.
            alone: the row runs in a process of its own.
        """
        bounded = [*self.rms, *self.times, *self.unwritten]
        if self.wraps and (raises or bounded):
            return "where offsets wrap, nothing else can be known: leave rms:, times:, unwritten: and raises: out"
        if self.wraps and not alone:
            return "offsets that wrap may break the GPU for the process: write alone: true in the row"
        if both := sorted(name for name in set(bounded) if bounded.count(name) > 1):
            return f"{both[0]} has two bounds: leave it in one of rms:, times: and unwritten:"
        if raises and bounded:
            return "the row says raises:, and an operation that raises has no results: leave rms: and times: out"
        if not (raises or self.wraps or bounded):
            return "names no result: write rms: {RESULT: BOUND} or times: {RESULT: BOUND}"
        return None

    def build(self) -> KnownDefect:
        return KnownDefect(self.because, dict(self.rms), dict(self.times), self.wraps, tuple(self.unwritten))
