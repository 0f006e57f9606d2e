"""How the session of a fault has to end: by which outcome of its numbers, or as a whole, and for what reason."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from scanproof.numbers.verdict.outcome import Outcome

SESSION_FAILS = "SESSION_FAILS"
"""No number failed, and the session did, because of what it did not compare."""
USAGE_ERROR = "USAGE_ERROR"
"""The session refused to start, and recorded no run."""
NOTHING_SELECTED = "NOTHING_SELECTED"
"""pytest selected no test, and no run was recorded."""
CLEAR = frozenset({Outcome.OUT_OF_TOLERANCE, Outcome.CHANGED})
"""Outcomes that say what is wrong by themselves.  Others have many reasons: a worker that crashed is an ERROR too."""


@dataclass(frozen=True)
class Complaint:
    """What a session failed by: one of its numbers, or the session as a whole."""

    ending: str
    """An outcome of numbers, or one of the names above."""
    reason: str


@dataclass(frozen=True)
class Ending:
    """How a session has to end."""

    names: frozenset[str]
    """What every number that fails has to end in, or the session as a whole."""
    says: str = ""
    """A regular expression that every reason holds; only outcomes that are `CLEAR` may be without."""

    def __post_init__(self) -> None:
        if not self.names or not (self.says or self.names <= CLEAR):
            raise ValueError(f"an ending has an outcome, and a reason unless it is one of {sorted(CLEAR)}: {self}")

    def explain_difference(self, complaints: Sequence[Complaint]) -> str | None:
        """Why a session with these complaints did not end so; None where it did."""
        if not complaints:
            return "it did not fail"
        for complaint in complaints:
            if complaint.ending not in self.names:
                return f"ended otherwise than {' or '.join(sorted(self.names))}"
            if not re.search(self.says, complaint.reason):
                return f"its reason does not say {self.says!r}"
        return None


CHANGED = Ending(frozenset({Outcome.CHANGED}))
OUT_OF_TOLERANCE = Ending(frozenset({Outcome.OUT_OF_TOLERANCE}))
MOVED = Ending(CLEAR)
"""Of the two numbers of a task one is within tolerance, and the other is not."""


def changed(says: str) -> Ending:
    """The documents differ from the baseline, in this way."""
    return Ending(frozenset({Outcome.CHANGED}), says)


def not_compared(says: str) -> Ending:
    """The comparison that is due cannot be made."""
    return Ending(frozenset({Outcome.COMPARISON_MISSING}), says)


def error(says: str) -> Ending:
    """Nothing that could be judged was measured."""
    return Ending(frozenset({Outcome.ERROR}), says)


def not_run(says: str) -> Ending:
    """The numbers were not measured."""
    return Ending(frozenset({Outcome.NOT_RUN}), says)


def session_fails(says: str) -> Ending:
    """The session is not green, although no number failed."""
    return Ending(frozenset({SESSION_FAILS}), says)


def usage_error(says: str) -> Ending:
    """The session is refused."""
    return Ending(frozenset({USAGE_ERROR}), says)


OTHER_ANSWERS = changed("margins moved by|the answer that moved most moved by")
NOTHING_RUN = Ending(frozenset({NOTHING_SELECTED}), "deselected")
NO_VERDICT = session_fails("2 of 2 selected numbers have no verdict")
OTHER_PROMPTS = not_compared("the prompts differ")
OTHER_DOCUMENTS = not_compared("the documents differ")
OTHER_SCORES = error(r"document \d+: \w+ is \S+ in the evaluation, \S+ made again from its answers")
OTHER_AGGREGATE = error(r": \S+ in the evaluation, its \d+ documents( of \d+ tasks)? make \S+")
