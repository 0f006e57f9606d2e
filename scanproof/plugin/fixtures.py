"""Fixtures of a published number and of a latency.  What they need is imported when a test asks for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

from scanproof.plugin import latency, latency_baselines, own_source
from scanproof.plugin.controller import PROPERTY
from scanproof.plugin.session import Session, session_of

if TYPE_CHECKING:
    from scanproof.kernels.latency.latency_verdict import Latency
    from scanproof.numbers.values import PublishedValue
    from scanproof.numbers.verdict.all_gates import Judged
    from scanproof.numbers.verdict.paired_tests import PairedComparison
    from scanproof.numbers.verdict.tolerance import Verdict
    from scanproof.record import Evaluation, Record


@pytest.fixture
def scanproof_evaluation(request: pytest.FixtureRequest, scanproof_value: PublishedValue) -> Evaluation:
    """The evaluation that `scanproof_value` belongs to; it runs once for all its numbers.

    Skips, or under --scanproof-strict errors, when the machine lacks what the job needs; errors when it breaks, and
    where a stand-in is missing.
    """
    from scanproof.errors import EvaluationError
    from scanproof.numbers.verdict.outcome import Outcome
    from scanproof.plugin import run_recorder
    from scanproof.plugin.evaluator import require_measured

    session, value, nodeid = session_of(request.config), scanproof_value, request.node.nodeid
    broken: EvaluationError | None = None
    missing = session.why_no_gpu if value.job.device == "cuda" else None
    if missing is None:
        try:
            evaluation = session.evaluate(value.job)
            require_measured(value, evaluation)
            return evaluation
        except EvaluationError as error:
            broken, problem = error, str(error)
            missing = error.message if error.kind == "missing" else None
    # The stand-ins and their data are parts of this package: one that is gone is a fault of the installation.
    may_skip = not session.settings.strict and value.job.suite != "embedded"
    if missing is not None and may_skip:
        attach(request, run_recorder.make_record(value, nodeid, outcome=Outcome.NOT_RUN.value, because=missing))
        pytest.skip(missing)
    never = "--scanproof-strict" if session.settings.strict else "a stand-in"
    because = problem if missing is None else f"{missing} ({never}: not a skip)"
    record = run_recorder.make_record(value, nodeid, outcome=Outcome.ERROR.value, because=because)
    attach(request, record)
    reasons = explain_failure(session, record, error=broken) if broken is not None else []
    pytest.fail("\n".join([f"{value.id}: not measured: {because}", *reasons]), pytrace=False)


@pytest.fixture
def scanproof_judged(
    request: pytest.FixtureRequest, scanproof_value: PublishedValue, scanproof_evaluation: Evaluation
) -> Judged:
    """The verdict of all gates on `scanproof_value`, recorded before any test asserts on it.

    Where lm-eval measured again after the shared engine, it is lm-eval's, and says what the shared engine had.
    """
    from scanproof.numbers.verdict import derive
    from scanproof.numbers.verdict.outcome import Outcome
    from scanproof.plugin import run_recorder

    session, value, nodeid = session_of(request.config), scanproof_value, request.node.nodeid
    try:
        judged = session.second_gate.judge(value, scanproof_evaluation, session.due)
    except derive.DeriveError as error:
        attach(request, run_recorder.make_record(value, nodeid, outcome=Outcome.ERROR.value, because=str(error)))
        pytest.fail(f"{value.id}: not measured: {error}", pytrace=False)
    own_source.note_replaced(request.node)
    verdict, comparison = judged.verdict, judged.comparison
    attach(request, run_recorder.judged_record(value, nodeid, scanproof_evaluation, verdict, comparison))
    return judged


@pytest.fixture
def scanproof_verdict(scanproof_judged: Judged) -> Verdict:
    """The verdict of all gates on `scanproof_value`."""
    return scanproof_judged.verdict


@pytest.fixture
def scanproof_gate(scanproof_judged: Judged) -> PairedComparison | None:
    """`scanproof_value` against its baseline, document by document; None where it has no baseline."""
    return scanproof_judged.comparison


@pytest.fixture
def scanproof_triage(
    request: pytest.FixtureRequest, scanproof_value: PublishedValue, scanproof_evaluation: Evaluation
) -> Callable[[Verdict, PairedComparison | None], list[str]]:
    """Called with a verdict and the second gate's finding: why `scanproof_value` failed, in lines for its message.

    Makes cheap checks only, and never raises.
    """

    def explain(verdict: Verdict, finding: PairedComparison | None) -> list[str]:
        from scanproof.plugin import run_recorder

        nodeid = request.node.nodeid
        record = run_recorder.judged_record(scanproof_value, nodeid, scanproof_evaluation, verdict, finding)
        return explain_failure(session_of(request.config), record, scanproof_evaluation)

    return explain


@pytest.fixture
def scanproof_check(
    scanproof_value: PublishedValue,
    scanproof_evaluation: Evaluation,
    scanproof_gate: PairedComparison | None,
    scanproof_verdict: Verdict,
    scanproof_triage: Callable[[Verdict, PairedComparison | None], list[str]],
) -> Callable[[PublishedValue], None]:
    """Called with `scanproof_value`: passes when the number is reproduced, and document by document as before.

    It fails with both gates' reasons and what triage says, is an expected failure where the number is known not to come
    out, and skips where it cannot be compared.  A number that could not be measured is an error before that.
    """

    def check(value: PublishedValue) -> None:
        from scanproof.numbers.verdict.outcome import Outcome
        from scanproof.report import terminal

        if value != scanproof_value:
            pytest.fail(f"this test is for {scanproof_value.id}: {value.id} was not evaluated for it", pytrace=False)
        verdict = scanproof_verdict
        if verdict.outcome is Outcome.KNOWN_DISCREPANCY:
            pytest.xfail(verdict.because)
        if verdict.outcome is Outcome.NOT_COMPARABLE:
            pytest.skip(f"not comparable: {verdict.because}")
        if verdict.outcome is not Outcome.REPRODUCED:
            reasons = scanproof_triage(verdict, scanproof_gate)
            text = terminal.failure_text(value, verdict, scanproof_evaluation, scanproof_gate, reasons)
            pytest.fail(text, pytrace=False)

    return check


@pytest.fixture
def scanproof_repeat() -> int:
    """Which repeat this is while baselines are recorded, from 1; 0 otherwise."""
    return 0


@pytest.fixture
def scanproof_latency(request: pytest.FixtureRequest) -> Callable[[Latency], Latency]:
    """Called with a latency: judges it by the baseline of its device and records it, before any test asserts on it."""
    from scanproof import files
    from scanproof.kernels.latency import baseline_files
    from scanproof.report import junit

    def judge(measured: Latency) -> Latency:
        wrong = ""
        try:
            judged = latency_baselines.judge(session_of(request.config), measured)
        except baseline_files.BaselineError as error:
            wrong = str(error)
        if wrong:
            # Not where it is caught: the message would come twice.
            pytest.fail(wrong, pytrace=False)
        request.node.user_properties.append((latency.PROPERTY, files.to_json(judged).decode()))
        request.node.user_properties.extend(junit.latency_properties(judged))
        return judged

    return judge


def explain_failure(
    session: Session, record: Record, evaluation: Evaluation | None = None, error: Exception | None = None
) -> list[str]:
    """What triage says of a number that has just failed, in lines."""
    from scanproof.errors import EvaluationError
    from scanproof.triage import message
    from scanproof.triage.evidence import Broken

    broken = None
    if isinstance(error, EvaluationError):
        broken = Broken(kind=error.kind, message=error.message, last_words=error.last_words, log=error.log)
    return message.lines(session.run_id, session.earlier_runs, record, evaluation, broken, session.expected)


def attach(request: pytest.FixtureRequest, record: Record) -> None:
    """Put a record on the test's report: whole for the controller, and in parts for readers of the JUnit file."""
    from scanproof import files
    from scanproof.report import junit

    request.node.user_properties.append((PROPERTY, files.to_json(record).decode()))
    request.node.user_properties.extend(junit.number_properties(record))
