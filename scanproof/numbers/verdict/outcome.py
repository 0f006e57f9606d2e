"""The only list of outcomes of numbers and latencies, and what each of them means.

Summary, page, JUnit, history, triage and bisect all use this list.  A new outcome is one new row.
"""

from __future__ import annotations

from enum import Enum, StrEnum


class Meaning(Enum):
    """What an outcome says about the thing that was tested."""

    GOOD = "good"
    """As expected."""
    OPEN = "open"
    """Measured and not judged: a known discrepancy, a subset of the documents, a latency without a baseline."""
    FAILED = "failed"
    """Something is wrong with what was tested, or with what it has to be compared with."""
    BROKEN = "broken"
    """Nothing was measured, so nothing is known."""

    @property
    def is_bad(self) -> bool:
        """Whether a session with this outcome must not be green."""
        return self in (Meaning.FAILED, Meaning.BROKEN)


class Outcome(StrEnum):
    """What became of one number."""

    meaning: Meaning
    sign: str
    """Tells outcomes apart without colour."""

    def __new__(cls, name: str, meaning: Meaning, sign: str) -> Outcome:
        member = str.__new__(cls, name)
        member._value_ = name
        member.meaning, member.sign = meaning, sign
        return member

    REPRODUCED = "REPRODUCED", Meaning.GOOD, "✓"
    OUT_OF_TOLERANCE = "OUT_OF_TOLERANCE", Meaning.FAILED, "✕"
    CHANGED = "CHANGED", Meaning.FAILED, "≠"
    """The number is within tolerance, but its documents differ from the baseline."""
    ENGINES_DISAGREE = "ENGINES_DISAGREE", Meaning.FAILED, "⇄"
    """Within tolerance by the plain engine, but the shared engine differs from it by more than noise."""
    COMPARISON_MISSING = "COMPARISON_MISSING", Meaning.FAILED, "∅"
    """Within tolerance, but a comparison with the baseline that was due could not be made."""
    KNOWN_DISCREPANCY = "KNOWN_DISCREPANCY", Meaning.OPEN, "◇"
    NOT_COMPARABLE = "NOT_COMPARABLE", Meaning.OPEN, "○"
    ERROR = "ERROR", Meaning.BROKEN, "!"
    """The machine failed, or what was measured is no evidence: answers that are none, a number that is not made of
    them, or, under strict, one of which both engines were asked and cannot be compared."""
    NOT_RUN = "NOT_RUN", Meaning.BROKEN, "–"
    """Skipped before anything was measured."""

    @property
    def can_still_change(self) -> bool:
        """Whether the comparison of documents, or of both engines, may turn it into one that is bad."""
        return not self.meaning.is_bad

    @property
    def needs_triage(self) -> bool:
        """Whether somebody has to look for the cause.  A skip states its own reason."""
        return self.meaning.is_bad and self is not Outcome.NOT_RUN

    @property
    def fits_a_baseline(self) -> bool:
        """Whether a run with this outcome may be declared a baseline.

        What differs from the baseline before may: the change can be intended.
        """
        return not self.meaning.is_bad or self in (Outcome.CHANGED, Outcome.COMPARISON_MISSING)

    @property
    def says_whether_it_is_as_before(self) -> bool:
        """Whether a bisection can go on from it: the number was measured, and compared with what it has to be."""
        return self.meaning is not Meaning.BROKEN and self not in (Outcome.NOT_COMPARABLE, Outcome.COMPARISON_MISSING)


class LatencyOutcome(StrEnum):
    """What became of one latency."""

    meaning: Meaning
    sign: str

    def __new__(cls, name: str, meaning: Meaning, sign: str) -> LatencyOutcome:
        member = str.__new__(cls, name)
        member._value_ = name
        member.meaning, member.sign = meaning, sign
        return member

    SAME = "SAME", Meaning.GOOD, "✓"
    FASTER = "FASTER", Meaning.GOOD, "✓"
    RECORDED = "RECORDED", Meaning.GOOD, "✓"
    SLOWER = "SLOWER", Meaning.FAILED, "✕"
    WRONG = "WRONG", Meaning.FAILED, "≠"
    """The operation's results are wrong, so it was not timed."""
    AMBIGUOUS = "AMBIGUOUS", Meaning.OPEN, "~"
    NO_BASELINE = "NO_BASELINE", Meaning.OPEN, "○"
    NOT_MEASURED = "NOT_MEASURED", Meaning.BROKEN, "–"
    """Not timed, or timed with so much noise that a kernel twice as slow would pass, or the baseline is lost."""


ALL: tuple[Outcome | LatencyOutcome, ...] = (*Outcome, *LatencyOutcome)


def meaning_of(name: str) -> Meaning:
    """What an outcome in a run file means.

    A name that is not in the list is BROKEN: a run of a newer scanproof, or a damaged run, proves nothing.
    """
    return next((outcome.meaning for outcome in ALL if outcome.value == name), Meaning.BROKEN)


def sign_of(name: str) -> str:
    """The sign of an outcome in a run file; `?` for one that is not in the list."""
    return next((outcome.sign for outcome in ALL if outcome.value == name), "?")


def fails(name: str | None) -> bool:
    """Whether an outcome in a run file means FAILED; False for None, where there is no outcome."""
    return name is not None and meaning_of(name) is Meaning.FAILED


def names(meaning: Meaning) -> frozenset[str]:
    """The names, as written in run files, of the outcomes with this meaning."""
    return frozenset(outcome.value for outcome in ALL if outcome.meaning is meaning)


def number_outcome(name: str) -> Outcome:
    """The outcome of a number in a run file; ERROR for a name that is not in the list."""
    return next((outcome for outcome in Outcome if outcome.value == name), Outcome.ERROR)
