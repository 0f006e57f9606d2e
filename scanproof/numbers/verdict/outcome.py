"""The only list of outcomes: of numbers and of latencies, with what each of them means.

Every surface asks here: summary, page, JUnit, history, triage, bisect.  A new outcome is one row.
"""

from __future__ import annotations

from enum import Enum, StrEnum


class Meaning(Enum):
    """What an outcome says of what was tested."""

    GOOD = "good"
    """As expected."""
    OPEN = "open"
    """Measured and not judged: a known discrepancy, a subset of the documents, a latency without a baseline."""
    FAILED = "failed"
    """Something is wrong with what was tested."""
    BROKEN = "broken"
    """Nothing was measured, so nothing is known."""

    @property
    def is_bad(self) -> bool:
        """Whether a session with such an outcome has not shown what it was to show."""
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
    """As printed, within tolerance, but document by document not as in the baseline."""
    ENGINES_DISAGREE = "ENGINES_DISAGREE", Meaning.FAILED, "⇄"
    """As printed by plain scoring, but shared scoring differs from it by more than noise."""
    KNOWN_DISCREPANCY = "KNOWN_DISCREPANCY", Meaning.OPEN, "◇"
    NOT_COMPARABLE = "NOT_COMPARABLE", Meaning.OPEN, "○"
    ERROR = "ERROR", Meaning.BROKEN, "!"
    """The machine failed."""
    NOT_RUN = "NOT_RUN", Meaning.BROKEN, "–"
    """Skipped before anything was measured."""

    @property
    def can_still_change(self) -> bool:
        """Whether the comparison document by document may turn it into CHANGED or ENGINES_DISAGREE."""
        return not self.meaning.is_bad

    @property
    def needs_triage(self) -> bool:
        """Whether somebody has to look for the reason; a skip says its reason itself."""
        return self.meaning.is_bad and self is not Outcome.NOT_RUN

    @property
    def fits_a_baseline(self) -> bool:
        """Whether a run with such a number may be declared good: what changed may have been meant to."""
        return not self.meaning.is_bad or self is Outcome.CHANGED


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
    AMBIGUOUS = "AMBIGUOUS", Meaning.OPEN, "~"
    NO_BASELINE = "NO_BASELINE", Meaning.OPEN, "○"
    NOT_MEASURED = "NOT_MEASURED", Meaning.BROKEN, "–"


ALL: tuple[Outcome | LatencyOutcome, ...] = (*Outcome, *LatencyOutcome)


def meaning_of(name: str) -> Meaning:
    """What an outcome in a run file means.

    One that is not in the list is BROKEN: a run of a newer scanproof, or a damaged one, proves nothing.
    """
    return next((each.meaning for each in ALL if each.value == name), Meaning.BROKEN)


def sign_of(name: str) -> str:
    """The sign of an outcome in a run file; `?` for one that is not in the list."""
    return next((each.sign for each in ALL if each.value == name), "?")


def fails(name: str | None) -> bool:
    """Whether an outcome in a run file says that something is wrong with what was tested; None: there was none."""
    return name is not None and meaning_of(name) is Meaning.FAILED


def names(meaning: Meaning) -> frozenset[str]:
    """The outcomes with this meaning, as they stand in files."""
    return frozenset(each.value for each in ALL if each.meaning is meaning)


def number_outcome(name: str) -> Outcome:
    """The outcome of a number in a run file; ERROR for a name that is not in the list."""
    return next((each for each in Outcome if each.value == name), Outcome.ERROR)
