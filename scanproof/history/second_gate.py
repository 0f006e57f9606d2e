"""The second gate of a session: finds the baseline of each evaluation, compares the two, and judges by all gates."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

from scanproof.evaluation import auto_engine
from scanproof.history.absence import explain_absence
from scanproof.history.apart import list_apart
from scanproof.history.baseline import RESTORE_DECLARATION, Baselines, read_probe_tokens
from scanproof.history.declarations import identity, is_name
from scanproof.history.due_before import Held, OtherRuns
from scanproof.history.errors import HistoryError
from scanproof.history.recorded_answers import read_recorded_baseline, recorded_file, refuse_other_expectation
from scanproof.history.samples import read_logs
from scanproof.history.store import gpu_name, open_history
from scanproof.numbers.expected.reader import Expected
from scanproof.numbers.values import PublishedValue
from scanproof.numbers.verdict import all_gates, answer_gate, baseline_gate, derive, tolerance, usable_answers
from scanproof.numbers.verdict.all_gates import Judged
from scanproof.numbers.verdict.answers import Samples
from scanproof.numbers.verdict.baseline_gate import Baseline, TaskPair
from scanproof.numbers.verdict.engines import Engines
from scanproof.numbers.verdict.measurement import Measurement
from scanproof.numbers.verdict.paired_tests import (
    ComparisonOutcome,
    PairedComparison,
    compare_tokens,
    explain_absent_tokens,
    refuse,
)
from scanproof.numbers.verdict.rounding import is_bounded
from scanproof.numbers.verdict.scores import MissingEvidenceError
from scanproof.record import Evaluation, KnownBaselines, Owed

MEASURE_TOKENS = (
    "measure it again; where a hook measures, let it return environment['probe_tokens'] as "
    "`scanproof.plugin.hookspecs` says"
)
SUBSET = "a subset of the documents was scored"
REACH = "mend the history, or leave out --scanproof-history"


@dataclass
class SecondGate:
    """Compares evaluations with their baselines; samples are read once."""

    expected: Expected
    history: str | None
    """Folder or URL of the history that holds the baselines."""
    strict: bool = False
    """Whether a number that has a declared baseline fails where it cannot be compared with it."""
    limit: int | None = None
    """Documents of each task that a session was asked to stop at; then no comparison is due."""
    others: OtherRuns = field(default_factory=OtherRuns)
    """What the other runs of the store say of baselines."""
    logs: dict[tuple[str, str], Samples] = field(default_factory=dict)
    """The answers in each folder that was read, by job and folder: one evaluation may serve two jobs."""
    recorded: dict[Path, Baseline] = field(default_factory=dict)
    """The recorded answers of each stand-in, by their file."""
    baselines: Baselines | None = None
    unreachable: str | None = None
    """Why the history's baselines could not be read."""

    def judge(self, value: PublishedValue, evaluation: Evaluation, due: Collection[str]) -> Judged:
        """The verdict on a number by all gates.

        Args:
            value: the number.
            evaluation: what measured it.
            due: ids of the numbers whose comparison was due before anything ran, as `list_due` says.

        Raises:
            derive.DeriveError: the evaluation does not hold the number.
        """
        engines = self.engines(value, evaluation)
        try:
            rejected, missing = answer_gate.judge_answers(value, evaluation, self.samples(evaluation)), None
        except (MissingEvidenceError, HistoryError) as error:
            rejected, missing = None, str(error)
        if rejected is not None:
            return Judged(all_gates.with_engines(rejected, engines), None)
        measurement = derive.measurement_of(value, evaluation.measurements)
        first = tolerance.compare(
            value, measurement.value, self.expected.constants, documents=measurement.n_samples,
            limited=evaluation.job.limit is not None,
        )  # fmt: skip
        if missing is not None:
            first = all_gates.without_answers(first, missing, needed=self.needs_answers(value))
        comparison = self.finding(value, evaluation)
        # Elsewhere than on this machine a number may have a baseline that nobody knew of before.
        whole = self.strict and self.limit is None
        required = value.id in due or (whole and comparison is not None)
        verdict = all_gates.conclude(first, comparison, engines, due=required, engines_due=whole)
        return Judged(verdict, comparison)

    def needs_answers(self, value: PublishedValue) -> bool:
        """Whether a number fails where it cannot be made again: a stand-in always, others under strict."""
        return self.limit is None and (self.strict or value.job.suite == "embedded")

    def list_due(self, values: Iterable[PublishedValue], gpu: str) -> tuple[str, ...]:
        """Ids of the numbers whose comparison is due in a session on this GPU; nothing has to have run."""
        if self.limit is not None:
            return ()
        due = [value for value in values if value.job.suite == "embedded" or self.has_declared(value, gpu)]
        return tuple(value.id for value in due)

    def has_declared(self, value: PublishedValue, gpu: str) -> bool:
        """Whether a strict session has to compare a number with a declared run, or cannot know whether it has to.

        It has to where an earlier one had to: an empty folder where a history was is no history.
        """
        if self.history is None or not self.strict:
            return False
        try:
            return explain_absence(self.opened(), value, gpu, self.others) is not None
        except HistoryError:
            return True

    def known_baselines(self, values: Iterable[PublishedValue], gpu: str) -> KnownBaselines | None:
        """Which of these numbers have a declared baseline on this GPU; None where not all of the history can be read.

        The run keeps it: a history that is lost later does not say what it held.
        """
        if self.history is None or not self.strict:
            return None
        try:
            opened = self.opened()
            numbers = tuple(value.id for value in values if opened.find_holder(value, gpu) is not None)
        except HistoryError:
            return None
        newest = opened.declarations[-1].id if opened.declarations else None
        return None if opened.unreadable else KnownBaselines(newest=newest, first=opened.first, numbers=numbers)

    def list_owed(self, values: Iterable[PublishedValue], gpu: str) -> tuple[Owed, ...]:
        """The numbers that had a baseline in other runs of the store, have none here, and are not left out by name."""
        if self.history is None or not self.strict:
            return ()
        return tuple(
            Owed(number=value.id, run=held.run, newest=held.newest, first=held.first)
            for value in values
            for held in self.others.held.get(value.id, ())
            if self.is_owed(value, held, gpu)
        )

    def is_owed(self, value: PublishedValue, held: Held, gpu: str) -> bool:
        """Whether a number has no baseline here that it had in another run; also where nobody knows."""
        try:
            opened = self.opened()
            return opened.find_holder(value, gpu) is None and not opened.leaves_out(value, self.others.gpu, held)
        except HistoryError:
            return True

    def baseline(self, value: PublishedValue, evaluation: Evaluation) -> Baseline | None:
        """The baseline of a number; raises HistoryError when it cannot be read."""
        return self.baseline_of(evaluation, {task for task, _ in baseline_gate.list_tasks(value)})

    def baseline_of(self, evaluation: Evaluation, tasks: Collection[str]) -> Baseline | None:
        """What an evaluation is compared with in these tasks.

        That is the declared run, if it holds any of them, else the answers recorded with the expected values.  These
        always where rounding is bounded: a declared run must not stand in for what a stand-in has to answer.

        Raises HistoryError when it cannot be read.
        """
        value = self.of_jobs.get(evaluation.job.name)
        if value is not None and value.job.suite == "embedded" and is_bounded(evaluation):
            return self.recorded_baseline(value)
        if self.history is not None:
            declared = self.opened().find(evaluation)
            # A run of some tasks (`-k`) is no baseline of the others.
            if declared is not None and any(task in tasks for _, task in declared.samples):
                return declared
        return self.recorded_baseline(value) if value is not None else None

    @cached_property
    def of_jobs(self) -> dict[str, PublishedValue]:
        """Name of each job -> a number that it measures; all of them are in one file, and of one checkpoint."""
        return {value.job.name: value for value in self.expected.numbers}

    def says_tokens(self, evaluation: Evaluation) -> bool:
        """Whether the baseline of an evaluation says which tokens a fixed text becomes."""
        try:
            baseline = self.baseline_of(evaluation, list_measured(evaluation))
        except HistoryError:
            return False  # Its numbers say so.
        return baseline is not None and baseline.probe_tokens is not None

    def opened(self) -> Baselines:
        """Open the history's baselines once; raises the same HistoryError at every call when they cannot be read."""
        if self.unreachable is not None:
            raise HistoryError(self.unreachable, REACH)
        if self.baselines is None:
            assert self.history is not None
            try:
                self.baselines = Baselines(open_history(self.history))
            except HistoryError as error:
                self.unreachable = str(error)
                raise HistoryError(self.unreachable, error.remedy or REACH) from None
        return self.baselines

    def recorded_baseline(self, value: PublishedValue) -> Baseline | None:
        """The answers of a stand-in, recorded in float64 with its expected values; None for other models.

        Raises HistoryError when they are not there, or cannot be read.
        """
        path = recorded_file(self.expected, value)
        if path is None:
            return None
        if path not in self.recorded:
            self.recorded[path] = read_recorded_baseline(self.expected, value, path)
        return self.recorded[path]

    def samples(self, evaluation: Evaluation) -> Samples:
        """The answers of an evaluation, by job and task; raises HistoryError."""
        return self.logged(evaluation.job.name, evaluation.samples)

    def logged(self, job: str, folder: str) -> Samples:
        """The answers logged in a folder, read once; raises HistoryError."""
        if (job, folder) not in self.logs:
            self.logs[job, folder] = read_logs(job, Path(folder))
        return self.logs[job, folder]

    def move_logs(self, job: str, before: str, after: str) -> None:
        """Know the answers of a folder by that of its copy, so that they are neither read nor kept twice."""
        kept = self.logs.pop((job, before), None)
        if kept is not None:
            self.logs[job, after] = kept

    def finding(self, value: PublishedValue, evaluation: Evaluation) -> PairedComparison | None:
        """Compare one number with its baseline; None where there is no baseline."""
        try:
            baseline = self.baseline(value, evaluation)
            if baseline is None:
                return self.explain_no_baseline(value, evaluation)
            if evaluation.job.limit is not None:
                return refuse(value.id, baseline.name, SUBSET, "measure without a limit")
            known = self.others.held.get(value.id, ())
            if is_name(baseline.name) and (older := self.opened().explain_older(evaluation, known)) is not None:
                return refuse(value.id, baseline.name, older, RESTORE_DECLARATION)
            recorded = self.recorded_baseline(value)
            if recorded is not None and (other := refuse_other_expectation(value, recorded)) is not None:
                return other
            comparison = baseline_gate.judge_number(
                value, evaluation, self.samples(evaluation), baseline, self.expected.constants
            )
            return comparison if comparison.changed else require_tokens(comparison, baseline, evaluation)
        except HistoryError as error:
            return refuse(value.id, "the baseline", str(error), error.remedy)

    def explain_no_baseline(self, value: PublishedValue, evaluation: Evaluation) -> PairedComparison | None:
        """Refused where a number has, or had, a declared baseline that is not this evaluation's; else None."""
        if self.history is None:
            return None
        gpus = evaluation.environment.get("gpus")
        gpu = gpu_name(gpus) if "gpus" in evaluation.environment else None
        return explain_absence(self.opened(), value, gpu, self.others)

    def engines(self, value: PublishedValue, evaluation: Evaluation) -> Engines | None:
        """Compare both engines on one number; None unless plain measured again what shared had measured."""
        replaced = evaluation.replaced
        if replaced is None:
            return None
        because = replaced.because.get(value.id) or auto_engine.explain_replacement(replaced)
        made = Engines(
            shared=measured(value, replaced.measurements), plain=measured(value, evaluation.measurements),
            because=because, broke=auto_engine.find_breakage(replaced),
            spot=None if replaced.scoring is None else replaced.scoring.spot,
        )  # fmt: skip
        if replaced.samples is None:
            lost = refuse(value.id, "plain", "the answers of the shared engine were not kept")
            return made if replaced.error is not None else replace(made, finding=lost)
        try:
            by_plain, by_shared = self.samples(evaluation), self.logged(evaluation.job.name, replaced.samples)
        except HistoryError as error:
            return replace(made, finding=refuse(value.id, "plain", str(error)))
        baseline = Baseline(name="plain", samples=by_plain)
        comparison = baseline_gate.judge_number(value, evaluation, by_shared, baseline, self.expected.constants)
        if not comparison.changed:
            return replace(made, finding=comparison)
        pairs, _ = baseline_gate.pair_tasks(
            baseline, by_shared, evaluation.job.name, [task for task, _ in baseline_gate.list_tasks(value)]
        )
        return replace(made, finding=comparison, apart=list_apart(pairs, value))

    def joint(self, evaluations: Iterable[Evaluation]) -> tuple[PairedComparison, ...]:
        """Test each model that has a baseline, and all of them together, on the documents that can be paired."""
        pairs: list[tuple[str, TaskPair]] = []
        names: dict[str, dict[str, None]] = {}
        measured: set[tuple[str, str]] = set()
        for evaluation in evaluations:
            value = self.of_jobs.get(evaluation.job.name)
            model = evaluation.job.pretrained if value is None else value.hub_id
            for name, pair in self.pairs(evaluation):
                what = identity(evaluation.job, evaluation.environment), pair.now.task
                # Two documents may print numbers of one evaluation; its documents count once.
                if what not in measured:
                    measured.add(what)
                    names.setdefault(model, {})[name] = None
                    pairs.append((model, pair))
        return self.joint_findings(pairs, {model: " and ".join(kept) for model, kept in names.items()})

    def changed_tokens(self, evaluations: Iterable[Evaluation]) -> tuple[PairedComparison, ...]:
        """The evaluations whose model read a fixed text otherwise than in the baseline: another tokenizer, or BOS."""
        findings = []
        for evaluation in evaluations:
            try:
                baseline = self.baseline_of(evaluation, list_measured(evaluation))
            except HistoryError:
                continue  # Its numbers say so.
            if baseline is not None:
                now = read_probe_tokens(evaluation.environment)
                findings.append(compare_tokens(evaluation.job.name, baseline.name, baseline.probe_tokens, now))
        return tuple(finding for finding in findings if finding is not None)

    def pairs(self, evaluation: Evaluation) -> list[tuple[str, TaskPair]]:
        """The tasks of an evaluation that can be paired, each with the name of its baseline."""
        kept: list[tuple[str, TaskPair]] = []
        if evaluation.job.limit is not None:
            return kept
        try:
            samples = self.samples(evaluation)
            for job, task in samples:
                baseline = self.baseline_of(evaluation, [task])
                # A task whose answers are none makes its numbers errors; it says nothing of the model.
                unusable = usable_answers.explain_unusable([samples[job, task]], evaluation.job.dtype)
                if baseline is not None and unusable is None:
                    paired, _ = baseline_gate.pair_tasks(baseline, samples, job, [task])
                    kept += [(baseline.name, pair) for pair in paired]
        except HistoryError:
            pass  # Its numbers say so.
        return kept

    def joint_findings(self, pairs: list[tuple[str, TaskPair]], names: dict[str, str]) -> tuple[PairedComparison, ...]:
        """The joint tests: one per model, and one for the whole night."""
        models = baseline_gate.group_by_model(pairs)
        constants = self.expected.constants
        level, margin = constants.joint_level(len(models)), constants.perplexity_sd
        findings = [
            baseline_gate.judge_together(model, names[model], kept, level, margin)
            for model, kept in sorted(models.items())
        ]
        if len(models) > 1:
            every = [pair for _, pair in pairs]
            findings.append(
                baseline_gate.judge_together(
                    "night", "the baselines of its models", every, constants.night_level, margin
                )
            )
        return tuple(findings)


def list_measured(evaluation: Evaluation) -> set[str]:
    """The tasks that an evaluation measured."""
    return {measurement.task for measurement in evaluation.measurements}


def require_tokens(comparison: PairedComparison, baseline: Baseline, evaluation: Evaluation) -> PairedComparison:
    """The comparison, or a refusal where one of the two sides does not say which tokens its model reads."""
    now = read_probe_tokens(evaluation.environment)
    absent = explain_absent_tokens(baseline.probe_tokens, now)
    if absent is None or comparison.outcome is ComparisonOutcome.REFUSED:
        return comparison
    return refuse(comparison.subject, baseline.name, absent, MEASURE_TOKENS if now is None else baseline.remedy)


def measured(value: PublishedValue, measurements: tuple[Measurement, ...]) -> float | None:
    """A number of an evaluation in its natural unit; None where it is absent or not finite."""
    try:
        number = derive.measurement_of(value, measurements).value
    except derive.DeriveError:
        return None
    return number if math.isfinite(number) else None
