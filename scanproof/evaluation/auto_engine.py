"""`--scanproof-engine=auto`: the shared engine measures each job, and plain again where a number or a check fails."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

from scanproof.errors import EvaluationError
from scanproof.evaluation import kernels_ran
from scanproof.numbers.values import EvalJob, PublishedValue
from scanproof.numbers.verdict import derive
from scanproof.numbers.verdict.engines import NO_SPOT, EngineName, Scoring
from scanproof.numbers.verdict.outcome import Outcome
from scanproof.numbers.verdict.tolerance import Verdict
from scanproof.record import Evaluation, Replaced

ENGINES_OWN = frozenset({"worker", "fallback"})
"""Kinds of error that the engine may have caused: its code broke, or it did not launch the kernels that the job names.
Other kinds (memory, the hub, files, a timeout, a signal) come from the machine: plain would meet the same error."""

EvaluateByEngine = Callable[[EvalJob, EngineName], Evaluation]
Judge = Callable[[PublishedValue, Evaluation], Verdict]


class AutoEngine:
    """Evaluates a job for all of its selected numbers together, so that one evaluation counts for all of them."""

    def __init__(self, evaluate: EvaluateByEngine, judge: Judge, values: Iterable[PublishedValue]) -> None:
        self.evaluate = evaluate
        self.judge = judge
        self.values = list(values)

    def __call__(self, job: EvalJob) -> Evaluation:
        """The evaluation that counts for the job: by shared, or by plain in its place.

        Raises:
            EvaluationError: an error of the machine, or plain broke.
        """
        try:
            shared = self.evaluate(job, "shared")
            kernels_ran.require_kernels(job, shared)
        except EvaluationError as error:
            if error.kind not in ENGINES_OWN:
                raise
            return self.measure_again(job, Replaced(because={}, error=f"{error.kind}: {error.message}"))
        reasons = self.find_failures(shared) if shared.engine == "shared" else {}
        if not reasons and not is_doubtful(shared.scoring):
            return shared
        return self.measure_again(
            job,
            Replaced(
                because=reasons,
                key=shared.key,
                measurements=shared.measurements,
                samples=shared.samples,
                seconds=shared.seconds,
                scoring=shared.scoring,
            ),
        )

    def find_failures(self, shared: Evaluation) -> dict[str, str]:
        """The numbers that fail as the shared engine measured them: id -> verdict in words."""
        reasons = {}
        for value in self.values:
            if value.job.name != shared.job.name:
                continue
            try:
                verdict = self.judge(value, shared)
            except derive.DeriveError:
                # The tasks that ran do not contain this number.  Another engine would not change that.
                continue
            if needs_second_engine(verdict):
                reasons[value.id] = f"{verdict.outcome.value}: {verdict.because}"
        return reasons

    def measure_again(self, job: EvalJob, replaced: Replaced) -> Evaluation:
        """Measure with plain.  If plain breaks too, its error also says why it was asked."""
        try:
            return replace(self.evaluate(job, "plain"), replaced=replaced)
        except EvaluationError as error:
            reason = explain_replacement(replaced)
            text = f"{error.message}\n(measured again by plain after the shared engine: {reason})"
            raise EvaluationError(error.kind, text, error.last_words, error.log) from error


def is_doubtful(scoring: Scoring | None) -> bool:
    """Whether plain gave another score to one of the spot-checked requests, or had no memory to score them.

    Without memory beside the other engine it has some in a process of its own.
    """
    if scoring is None:
        return False
    return scoring.lacks_spot or (scoring.spot is not None and scoring.spot.differs)


def needs_second_engine(verdict: Verdict) -> bool:
    """Whether plain could give another verdict: the number fails, or its answers were rejected.

    An error without a measured value is one of the answers: they are not finite, or equal, or do not make the number.
    Plain answers anew.
    """
    rejected = verdict.outcome is Outcome.ERROR and verdict.measured is None
    return rejected or verdict.outcome in (Outcome.OUT_OF_TOLERANCE, Outcome.CHANGED)


def find_breakage(replaced: Replaced) -> str | None:
    """The error by which the shared engine, or a kernel that it called, broke; None where it did not.

    That it did not launch the kernels that the job names is no breakage: it may rotate without the kernel of the
    rotation, and plain has to launch them all.
    """
    if replaced.error is None or replaced.error.startswith("fallback: "):
        return None
    return replaced.error.splitlines()[0]


def explain_replacement(replaced: Replaced) -> str:
    """Why plain measured a job again, in one line."""
    if replaced.error is not None:
        return f"the shared engine broke: {replaced.error.splitlines()[0]}"
    if not replaced.because:
        assert replaced.scoring is not None
        return NO_SPOT if replaced.scoring.lacks_spot else str(replaced.scoring.spot)
    first, *rest = replaced.because.items()
    more = f" and {len(rest)} more" if rest else ""
    return f"{first[0]} was {first[1]}{more}"
