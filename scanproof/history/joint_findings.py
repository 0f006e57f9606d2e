"""What many numbers of a session show together, and no single one: one answer for the session and for `verify`."""

from __future__ import annotations

from collections.abc import Iterable

from scanproof.history.second_gate import SecondGate
from scanproof.numbers.values import PublishedValue
from scanproof.numbers.verdict import joint_print
from scanproof.numbers.verdict.paired_tests import PairedComparison
from scanproof.record import Run


def judge_together(gate: SecondGate, run: Run, values: Iterable[PublishedValue]) -> tuple[PairedComparison, ...]:
    """Every model, and the night, against the baseline and what was printed.

    Args:
        gate: what compares with the baseline.
        run: its evaluations and its records.
        values: the numbers that were selected.
    """
    # Without an allowance nothing was compared: some of the documents, or a number without a tolerance.
    measured = {
        record.id: record.verdict.measured
        for record in run.records
        if record.verdict is not None and record.verdict.measured is not None and record.verdict.allowance is not None
    }
    return (
        *gate.joint(run.evaluations),
        *gate.changed_tokens(run.evaluations),
        *joint_print.judge_models(values, measured, gate.expected.constants),
    )
