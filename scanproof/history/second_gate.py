"""The second gate of a session: finds the baseline of each evaluation and compares the two."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path

from scanproof.evaluation import auto_engine
from scanproof.history.baseline import Baselines, harness_version, identity
from scanproof.history.errors import HistoryError
from scanproof.history.recorded_answers import find_recorded_file, read_recorded_answers
from scanproof.history.samples import read_logs
from scanproof.history.store import open_history
from scanproof.numbers.expected.reader import Expected
from scanproof.numbers.values import PublishedValue
from scanproof.numbers.verdict import baseline_gate, derive
from scanproof.numbers.verdict.answers import Samples
from scanproof.numbers.verdict.baseline_gate import Baseline, TaskPair
from scanproof.numbers.verdict.engines import DISAGREE, EngineDifference, Engines
from scanproof.numbers.verdict.measurement import Measurement
from scanproof.numbers.verdict.outcome import Outcome
from scanproof.numbers.verdict.paired_tests import PairedComparison, refuse
from scanproof.numbers.verdict.tolerance import Verdict
from scanproof.record import Evaluation

APART = 8
"""Most documents that are named when the two engines disagree."""


@dataclass
class SecondGate:
    """Compares evaluations with their baselines; samples are read once."""

    expected: Expected
    history: str | None
    """Folder or URL of the history that holds the baselines."""
    logs: dict[str, Samples] = field(default_factory=dict)
    recorded: dict[Path, Baseline] = field(default_factory=dict)
    """The recorded answers of each stand-in, by their file."""
    baselines: Baselines | None = None
    unreachable: str | None = None
    """Why the history's baselines could not be read."""

    def baseline(self, value: PublishedValue, evaluation: Evaluation) -> Baseline | None:
        """The baseline of a number's evaluation: a declared run, else the answers recorded with the expected values.

        Raises HistoryError when it cannot be read.
        """
        if self.history is not None:
            found = self.opened().find(evaluation)
            if found is not None:
                return found.named_for(evaluation.engine).with_rounding_for(evaluation)
        recorded = self.recorded_baseline(value)
        return recorded.with_rounding_for(evaluation) if recorded is not None else None

    def opened(self) -> Baselines:
        """Open the history's baselines once; raises the same HistoryError at every call when they cannot be read."""
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

    def recorded_baseline(self, value: PublishedValue) -> Baseline | None:
        """The answers of a stand-in, recorded in float64 with its expected values; raises HistoryError."""
        path = find_recorded_file(self.expected, value)
        if path is None:
            return None
        if path not in self.recorded:
            answers = read_recorded_answers(self.expected, value, path)
            samples = {(task.job, task.task): task for task in answers.samples.values()}
            self.recorded[path] = Baseline(name=answers.name, samples=samples, harness=answers.harness)
        return self.recorded[path]

    def samples(self, evaluation: Evaluation) -> Samples:
        """The answers of an evaluation, by job and task; raises HistoryError."""
        return self.logged(evaluation.job.name, evaluation.samples)

    def logged(self, job: str, folder: str) -> Samples:
        """The answers logged in a folder, read once; raises HistoryError."""
        if folder not in self.logs:
            self.logs[folder] = read_logs(job, Path(folder))
        return self.logs[folder]

    def finding(self, value: PublishedValue, evaluation: Evaluation) -> PairedComparison | None:
        """Compare one number with its baseline; None where there is no baseline."""
        try:
            baseline = self.baseline(value, evaluation)
            if baseline is None:
                return None
            if evaluation.job.limit is not None:
                return refuse(value.id, baseline.name, "a subset of the documents was scored")
            return baseline_gate.judge_number(
                value, self.samples(evaluation), baseline, self.expected.constants,
                harness=harness_version(evaluation.environment),
            )  # fmt: skip
        except HistoryError as error:
            return refuse(value.id, "the baseline", str(error))

    def engines(self, value: PublishedValue, evaluation: Evaluation) -> Engines | None:
        """Compare both engines on one number; None unless plain measured again what shared had measured."""
        replaced = evaluation.replaced
        if replaced is None:
            return None
        because = replaced.because.get(value.id) or auto_engine.explain_replacement(replaced)
        made = Engines(
            shared=measured(value, replaced.measurements), plain=measured(value, evaluation.measurements),
            because=because,
        )  # fmt: skip
        if replaced.samples is None:
            return made
        try:
            by_plain, by_shared = self.samples(evaluation), self.logged(evaluation.job.name, replaced.samples)
        except HistoryError as error:
            return replace(made, finding=refuse(value.id, "plain", str(error)))
        # The two were scored by one lm-eval within one session.
        baseline = Baseline(name="plain", samples=by_plain, harness="").with_rounding_for(evaluation)
        found = baseline_gate.judge_number(value, by_shared, baseline, self.expected.constants, harness="")
        if not found.changed:
            return replace(made, finding=found)
        pairs, _ = baseline_gate.pair_tasks(
            baseline, by_shared, evaluation.job.name, [task for task, _ in baseline_gate.list_tasks(value)]
        )
        return replace(made, finding=found, apart=apart(pairs, value))

    def joint(
        self, values: Iterable[PublishedValue], evaluations: Iterable[Evaluation]
    ) -> tuple[PairedComparison, ...]:
        """Test each model that has a baseline, and all of them together, on the documents that can be paired."""
        by_job = {value.job.name: value for value in values}
        pairs: list[tuple[str, TaskPair]] = []
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

    def pairs(self, value: PublishedValue, evaluation: Evaluation) -> list[tuple[str, TaskPair]]:
        """Name of the baseline and the paired tasks of an evaluation; tasks that cannot be paired are left out."""
        try:
            baseline = self.baseline(value, evaluation)
            if baseline is None or evaluation.job.limit is not None:
                return []
            if baseline_gate.explain_other_harness(baseline, harness_version(evaluation.environment)) is not None:
                return []
            samples = self.samples(evaluation)
            found, _ = baseline_gate.pair_tasks(baseline, samples, evaluation.job.name, [task for _, task in samples])
            return [(baseline.name, each) for each in found]
        except HistoryError:
            return []

    def joint_findings(self, pairs: list[tuple[str, TaskPair]], names: dict[str, str]) -> tuple[PairedComparison, ...]:
        """The joint tests: one per model, and one for the whole night."""
        models = baseline_gate.group_by_model(pairs)
        constants = self.expected.constants
        level, margin = constants.joint_level(len(models)), constants.perplexity_sd
        found = [
            baseline_gate.judge_together(model, names[model], kept, level, margin)
            for model, kept in sorted(models.items())
        ]
        if len(models) > 1:
            every = [each for _, each in pairs]
            found.append(
                baseline_gate.judge_together(
                    "night", "the baselines of its models", every, constants.night_level, margin
                )
            )
        return tuple(found)


def measured(value: PublishedValue, measurements: tuple[Measurement, ...]) -> float | None:
    """A number of an evaluation in its natural unit; None where it is absent or not finite."""
    try:
        found = derive.measurement_of(value, measurements).value
    except derive.DeriveError:
        return None
    return found if math.isfinite(found) else None


def apart(pairs: Iterable[TaskPair], value: PublishedValue) -> tuple[EngineDifference, ...]:
    """The documents that two engines score most differently; documents whose score differs come first."""
    metrics = dict(baseline_gate.list_tasks(value))
    found = []
    for each in pairs:
        plain, shared = each.before, each.now
        scores = (side.metrics.get(metrics[plain.task], (None,) * len(plain.doc_ids)) for side in (shared, plain))
        rows = zip(plain.doc_ids, shared.loglikelihoods, plain.loglikelihoods, *scores, strict=True)
        for doc, mine, other, score, plain_score in rows:
            moved = [0.0 if a == b else a - b for a, b in zip(mine, other, strict=True)]
            finite = all(map(math.isfinite, moved))
            nats = max(moved, key=abs, default=0.0) if finite else None
            found.append(EngineDifference(task=plain.task, doc_id=doc, nats=nats, shared=score, plain=plain_score))
    found.sort(key=lambda one: -math.inf if one.nats is None else -abs(one.nats))
    if value.binary:
        found.sort(key=lambda one: one.shared == one.plain)
    return tuple(one for one in found[:APART] if one.nats != 0.0)


def with_engines(verdict: Verdict, engines: Engines | None) -> Verdict:
    """Plain's verdict with what both engines measured; a number that would pass fails when the engines disagree."""
    if engines is None:
        return verdict
    verdict = replace(verdict, engines=engines)
    if not engines.disagree or not verdict.outcome.can_still_change:
        return verdict
    because = "; ".join([DISAGREE, *engines.lines()[:2]])
    return replace(verdict, outcome=Outcome.ENGINES_DISAGREE, because=because)


def with_finding(verdict: Verdict, finding: PairedComparison | None) -> Verdict:
    """The verdict of the first gate, changed to CHANGED where the second gate found a change."""
    if finding is None or not finding.changed or not verdict.outcome.can_still_change:
        return verdict
    return replace(verdict, outcome=Outcome.CHANGED, because=finding.because)
