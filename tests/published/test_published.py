"""The suite: one test for every published number, and for every number of the embedded stand-ins."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from scanproof.numbers.values import PublishedValue
from scanproof.numbers.verdict.outcome import Outcome
from scanproof.numbers.verdict.paired_tests import Finding
from scanproof.numbers.verdict.tolerance import Verdict
from scanproof.record import Evaluation
from scanproof.report import terminal


def test_published(
    scanproof_value: PublishedValue,
    scanproof_evaluation: Evaluation,
    scanproof_gate: Finding | None,
    scanproof_verdict: Verdict,
    scanproof_triage: Callable[[Verdict, Finding | None], list[str]],
) -> None:
    """The number that was published still comes out within what noise explains, document by document as before."""
    verdict = scanproof_verdict
    if verdict.outcome is Outcome.KNOWN_DISCREPANCY:
        pytest.xfail(verdict.because)
    if verdict.outcome is Outcome.NOT_COMPARABLE:
        pytest.skip(f"not comparable: {verdict.because}")
    if verdict.outcome is not Outcome.REPRODUCED:
        reasons = scanproof_triage(verdict, scanproof_gate)
        text = terminal.failure_text(scanproof_value, verdict, scanproof_evaluation, scanproof_gate, reasons)
        pytest.fail(text, pytrace=False)
