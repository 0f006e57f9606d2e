"""The suite: one test for every published number, and for every number of the embedded stand-ins."""

from __future__ import annotations

import pytest

from scanproof import tables
from scanproof.record import Evaluation
from scanproof.tolerance import Outcome, Verdict
from scanproof.values import PublishedValue


def test_published(
    scanproof_value: PublishedValue, scanproof_evaluation: Evaluation, scanproof_verdict: Verdict
) -> None:
    """The number that was published still comes out, within what noise explains."""
    verdict = scanproof_verdict
    if verdict.outcome is Outcome.KNOWN_DISCREPANCY:
        pytest.xfail(verdict.because)
    if verdict.outcome is Outcome.NOT_COMPARABLE:
        pytest.skip(f"not comparable: {verdict.because}")
    if verdict.outcome is not Outcome.REPRODUCED:
        pytest.fail(tables.failure_text(scanproof_value, verdict, scanproof_evaluation), pytrace=False)
