"""The second gate of a session: finds what an evaluation is compared with, and compares."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path

from scanproof.expected import Expected
from scanproof.history import gate
from scanproof.history.baseline import Baselines, harness, identity
from scanproof.history.gate import Baseline, Pair
from scanproof.history.problem import HistoryError
from scanproof.history.samples import Samples, read_answers, read_logs
from scanproof.history.store import open_history
from scanproof.paired import Finding, refuse
from scanproof.record import Evaluation
from scanproof.tolerance import Outcome, Verdict
from scanproof.values import PublishedValue

ANSWERS = ".answers.jsonl.gz"
"""Beside an evaluation file: what each document answered when its values were recorded."""
OPEN_TO_CHANGE = frozenset({Outcome.REPRODUCED, Outcome.KNOWN_DISCREPANCY, Outcome.NOT_COMPARABLE})
"""Verdicts of the first gate that leave the second anything to say."""


@dataclass
class SecondGate:
    """Compares evaluations with their baselines; samples are read once."""

    expected: Expected
    history: str | None
    """Folder or URL of the history that holds the baselines."""
    logs: dict[str, Samples] = field(default_factory=dict)
    answers: dict[Path, Samples] = field(default_factory=dict)
    baselines: Baselines | None = None
    unreachable: str | None = None
    """Why the history's baselines could not be read."""

    def baseline(self, value: PublishedValue, evaluation: Evaluation) -> Baseline | None:
        """What the evaluation of a number is compared with: a declared run, else the answers kept with the values.

        Raises HistoryError when it cannot be read.
        """
        if self.history is not None:
            found = self.opened().find(evaluation)
            if found is not None:
                return replace(found, ceiling=ceiling(value))
        return self.recorded(value)

    def opened(self) -> Baselines:
        """The baselines of the history; raises the same HistoryError every time when it cannot be read."""
        if self.unreachable is not None:
            raise HistoryError(self.unreachable)
        if self.baselines is None:
            assert self.history is not None
            try:
                self.baselines = Baselines(open_history(self.history))
            except HistoryError as error:
                self.unreachable = str(error)
                raise
        return self.baselines

    def recorded(self, value: PublishedValue) -> Baseline | None:
        """The answers of a stand-in, recorded in float64 with its expected values."""
        path = self.expected.folder / Path(value.file).with_suffix(ANSWERS)
        if value.job.suite != "embedded" or not path.is_file():
            return None
        if path not in self.answers:
            self.answers[path] = read_answers("recorded", path)
        document = next(each for each in self.expected.documents if each.number == value.document)
        return Baseline(
            name=f"the answers recorded in float64 ({path.name})",
            samples=self.answers[path],
            harness=document.harness.get("version"),
            ceiling=ceiling(value),
        )

    def samples(self, evaluation: Evaluation) -> Samples:
        """What the documents of an evaluation got; raises HistoryError."""
        if evaluation.samples not in self.logs:
            self.logs[evaluation.samples] = read_logs(evaluation.job.name, Path(evaluation.samples))
        return self.logs[evaluation.samples]

    def finding(self, value: PublishedValue, evaluation: Evaluation) -> Finding | None:
        """One number against its baseline; None where there is none."""
        try:
            baseline = self.baseline(value, evaluation)
            if baseline is None:
                return None
            if evaluation.job.limit is not None:
                return refuse(value.id, baseline.name, "a subset of the documents was scored")
            return gate.judge(
                value, self.samples(evaluation), baseline, self.expected.constants,
                harness=harness(evaluation.environment),
            )  # fmt: skip
        except HistoryError as error:
            return refuse(value.id, "the baseline", str(error))

    def joint(self, values: Iterable[PublishedValue], evaluations: Iterable[Evaluation]) -> tuple[Finding, ...]:
        """Every model that has a baseline, and all of them together, as far as their documents can be paired."""
        by_job = {value.job.name: value for value in values}
        pairs: list[tuple[str, Pair]] = []
        names: dict[str, str] = {}
        measured: set[tuple[str, str]] = set()
        for evaluation in evaluations:
            value = by_job.get(evaluation.job.name)
            for name, each in self.pairs(value, evaluation) if value else ():
                what = identity(evaluation.job, evaluation.environment), each.now.task
                # Two documents may print numbers of one evaluation; its documents count once.
                if value is not None and what not in measured:
                    measured.add(what)
                    names[value.hub_id] = name
                    pairs.append((value.hub_id, each))
        return self.joint_findings(pairs, names)

    def pairs(self, value: PublishedValue, evaluation: Evaluation) -> list[tuple[str, Pair]]:
        """Name of the baseline and the paired tasks of an evaluation; what cannot be paired its numbers say."""
        try:
            baseline = self.baseline(value, evaluation)
            if baseline is None or evaluation.job.limit is not None:
                return []
            if gate.same_harness(baseline, harness(evaluation.environment)) is not None:
                return []
            samples = self.samples(evaluation)
            found, _ = gate.pair(baseline, samples, evaluation.job.name, [task for _, task in samples])
            return [(baseline.name, each) for each in found]
        except HistoryError:
            return []

    def joint_findings(self, pairs: list[tuple[str, Pair]], names: dict[str, str]) -> tuple[Finding, ...]:
        """The joint tests, a model each and the night."""
        models = gate.by_model(pairs)
        constants = self.expected.constants
        level, margin = constants.joint_level(len(models)), constants.perplexity_sd
        found = [gate.joint(model, names[model], kept, level, margin) for model, kept in sorted(models.items())]
        if len(models) > 1:
            every = [each for _, each in pairs]
            found.append(gate.joint("night", "the baselines of its models", every, constants.night_level, margin))
        return tuple(found)


def ceiling(value: PublishedValue) -> float | None:
    """Nats by which rounding can move an answer of a stand-in, whatever it is compared with; None elsewhere."""
    rounds = value.job.suite == "embedded" and value.job.dtype == "float32" and value.job.device == "cpu"
    return gate.FLOAT32_CEILING if rounds else None


def with_finding(verdict: Verdict, finding: Finding | None) -> Verdict:
    """The verdict of both gates together."""
    if finding is None or not finding.changed or verdict.outcome not in OPEN_TO_CHANGE:
        return verdict
    return replace(verdict, outcome=Outcome.CHANGED, because=finding.because)
