"""`--scanproof-engine=auto`: each job by the shared engine, and again by plain where that is to blame for a failure."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

from scanproof.errors import EvaluationError
from scanproof.evaluation import kernels_ran
from scanproof.numbers.values import EvalJob, PublishedValue
from scanproof.numbers.verdict import derive
from scanproof.numbers.verdict.engines import Engine, Scoring
from scanproof.numbers.verdict.outcome import Outcome
from scanproof.numbers.verdict.tolerance import Verdict
from scanproof.record import Evaluation, Replaced

ENGINES_OWN = frozenset({"worker", "fallback"})
"""Kinds of error that the engine may have caused: its code broke, or it did not launch the kernels that the job names.
Memory, the hub, files, a timeout and a signal are the machine's: plain would meet them again, and later."""

By = Callable[[EvalJob, Engine], Evaluation]
Judge = Callable[[PublishedValue, Evaluation], Verdict]


class Auto:
    """Evaluates a job for all of its selected numbers together, so that one evaluation counts for all of them."""

    def __init__(self, by: By, judge: Judge, values: Iterable[PublishedValue]) -> None:
        self.by = by
        self.judge = judge
        self.values = list(values)

    def __call__(self, job: EvalJob) -> Evaluation:
        """What counts for the job: shared's evaluation, or plain's in its place.  Raises EvaluationError."""
        try:
            shared = self.by(job, "shared")
            kernels_ran.require_kernels(job, shared)
        except EvaluationError as error:
            if error.kind not in ENGINES_OWN:
                raise
            return self.again(job, Replaced(because={}, error=f"{error.kind}: {error.message}"))
        reasons = self.reasons(shared) if shared.engine == "shared" else {}
        if not reasons and not spotted(shared.scoring):
            return shared
        return self.again(
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

    def reasons(self, shared: Evaluation) -> dict[str, str]:
        """The numbers that the shared engine has fail, each with its verdict."""
        found = {}
        for value in (each for each in self.values if each.job.name == shared.job.name):
            try:
                verdict = self.judge(value, shared)
            except derive.DeriveError:
                # The tasks that ran do not hold it: no engine changes that.
                continue
            if suspicious(verdict):
                found[value.id] = f"{verdict.outcome.value}: {verdict.because}"
        return found

    def again(self, job: EvalJob, replaced: Replaced) -> Evaluation:
        """Plain's evaluation; one that breaks as well says so of both."""
        try:
            return replace(self.by(job, "plain"), replaced=replaced)
        except EvaluationError as error:
            told = f"{error.message}\n(measured again by plain after the shared engine: {why(replaced)})"
            raise EvaluationError(error.kind, told, error.last_words, error.log) from error


def spotted(scoring: Scoring | None) -> bool:
    """Whether plain scored a request otherwise."""
    return scoring is not None and scoring.spot is not None and scoring.spot.differs


def suspicious(verdict: Verdict) -> bool:
    """Whether another engine could give another verdict: a number that fails, or that is no number."""
    impossible = verdict.outcome is Outcome.ERROR and verdict.measured is None
    return impossible or verdict.outcome in (Outcome.OUT_OF_TOLERANCE, Outcome.CHANGED)


def why(replaced: Replaced) -> str:
    """Why plain measured a job again, in a line."""
    if replaced.error is not None:
        return f"the shared engine broke: {replaced.error.splitlines()[0]}"
    if not replaced.because:
        assert replaced.scoring is not None
        return str(replaced.scoring.spot)
    first, *rest = replaced.because.items()
    more = f" and {len(rest)} more" if rest else ""
    return f"{first[0]} was {first[1]}{more}"
