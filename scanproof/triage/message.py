"""The first finding in the message of a test that fails."""

from __future__ import annotations

from scanproof.numbers.expected.reader import Expected
from scanproof.record import Evaluation, Record
from scanproof.triage import gather, text
from scanproof.triage.diagnose import diagnose
from scanproof.triage.evidence import Broken
from scanproof.triage.read_answers import Runs


def lines(
    run: str, runs: Runs, kept: Record, evaluation: Evaluation | None, broken: Broken | None, expected: Expected,
) -> list[str]:  # fmt: skip
    """What triage says of a number, in lines for the failing test's message; never raises.

    Reads what lies on disk only, the history not: a bucket may be slow, and the message must not wait for it.
    """
    try:
        evidence = gather.gather_evidence(run, runs.root / "runs" / run, runs, kept, evaluation, broken, expected)
        said = text.message(diagnose(evidence))
    except Exception as error:
        # The message of a failing number is worth more than the reason that could not be found.
        return [f"  triage      could not look: {type(error).__name__}: {error}"]
    return [*said, f"  more        scanproof triage {run} {kept.id} --store {runs.root}"]
