"""Read everything that a run's report needs: earlier nights, its samples, and the samples to compare them with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from scanproof.history import compare, kept_files
from scanproof.history import nights as series
from scanproof.history.errors import HistoryError
from scanproof.history.samples import read_logs
from scanproof.history.second_gate import SecondGate
from scanproof.history.store import History, gpu_name, open_history
from scanproof.numbers.expected.reader import Expected
from scanproof.numbers.values import PublishedValue
from scanproof.numbers.verdict.answers import Samples
from scanproof.numbers.verdict.baseline_gate import Baseline
from scanproof.record import Evaluation, Run
from scanproof.report import changed_documents, content, past_nights
from scanproof.report.build import Material, build_report
from scanproof.report.past_nights import PastNight, Since

NIGHTS_TRIED = 5
"""How many good nights, and how many others, are searched for samples."""


@dataclass
class Reporter:
    """Makes the report of one run; its remarks name everything that could not be read."""

    run: Run
    folder: Path | None
    """The run's folder in a local store; None where only a history holds the run."""
    store: Path
    """The local store."""
    expected: Expected | None
    history: str | None
    """Folder or URL of the history; None where there is none."""
    since: Since | None = None
    remarks: list[str] = field(default_factory=list)
    logs: dict[str, Samples] = field(default_factory=dict)
    texts: changed_documents.Texts = field(init=False)

    def __post_init__(self) -> None:
        self.texts = changed_documents.Texts(self.folder)

    def report(self, *, with_samples: bool = True) -> content.Report:
        """Make the report; without samples, it leaves out the changed documents."""
        find = self.find_changed_documents if with_samples and self.expected is not None else None
        material = Material(
            run=self.run, past=self.past, expected=self.expected, find_documents=find, drifts=self.find_drifts(),
            remarks=self.remarks, store=str(self.store) if self.folder is not None else None,
        )  # fmt: skip
        report = build_report(material)
        return content.with_remarks(report, [*self.remarks, *self.text_remarks(), *self.damage_remarks()])

    @cached_property
    def opened_history(self) -> History | None:
        """The history; None where there is none or where it cannot be read."""
        if self.history is None:
            return None
        try:
            return open_history(self.history)
        except HistoryError as error:
            self.remarks.append(f"no trends from the history: {error}")
            return None

    @cached_property
    def past(self) -> list[PastNight]:
        """Earlier runs, oldest first: from the history, or from the local store where the history has none."""
        if self.opened_history is not None:
            try:
                nights = past_nights.from_history(self.opened_history, self.run, self.since)
                if nights:
                    return nights
            except HistoryError as error:
                self.remarks.append(f"no trends from the history: {error}")
        nights, problems = past_nights.from_store(self.store / "runs", self.run, self.since)
        self.remarks += problems
        return nights

    @cached_property
    def reference_night(self) -> compare.Whole | None:
        """The night that documents are compared with where no baseline was declared; None where there is none.

        It is the last good night that kept samples, or else the last other night that did.
        """
        good = [night for night in reversed(self.past) if night.good]
        others = [night for night in reversed(self.past) if not night.good]
        for night in (*good[:NIGHTS_TRIED], *others[:NIGHTS_TRIED]):
            try:
                whole = night.whole()
            except HistoryError as error:
                self.remarks.append(f"documents cannot be compared with {night.run}: {error}")
                continue
            if whole.samples:
                return whole
        return None

    @cached_property
    def gate(self) -> SecondGate:
        """The gate that knows the declared baselines."""
        assert self.expected is not None
        return SecondGate(self.expected, self.history)

    @cached_property
    def evaluations(self) -> Mapping[str, Evaluation]:
        """The run's evaluations by name of the job."""
        return {evaluation.job.name: evaluation for evaluation in self.run.evaluations}

    def find_drifts(self) -> tuple[str, ...]:
        """Drifts over the nights on this run's GPU, in words; only if it is the newest night there."""
        if self.opened_history is None or self.expected is None:
            return ()
        try:
            gpu = gpu_name(self.run.environment.get("gpus"))
            runs = [run for run in self.opened_history.runs() if run.gpu == gpu]
            if not runs or runs[-1].id != self.run.id:
                return ()
            rows = series.drifts(self.opened_history, self.expected.constants).rows
            return tuple(series.sentence(row) for row in rows if row["gpu"] == gpu)
        except HistoryError as error:
            self.remarks.append(f"drifts are not known: {error}")
            return ()

    def find_changed_documents(self, value: PublishedValue) -> content.ChangedDocuments:
        """The documents of a number whose scores differ from its baseline."""
        evaluation = self.evaluations.get(value.job.name)
        if evaluation is None:
            return changed_documents.no_comparison("the run kept no evaluation of this job")
        try:
            before = self.find_baseline(value, evaluation)
            if before is None:
                return changed_documents.no_comparison("there is no earlier run of this job to compare with")
            return changed_documents.find_changed_documents(value, self.read_samples(evaluation), before, self.texts)
        except HistoryError as error:
            return changed_documents.no_comparison(str(error))

    def find_baseline(self, value: PublishedValue, evaluation: Evaluation) -> Baseline | None:
        """The declared baseline, or the recorded answers, or the last good night; None where there is none of them.

        Raises HistoryError.
        """
        try:
            declared = self.gate.baseline(value, evaluation)
        except HistoryError as error:
            self.remarks.append(str(error))
            declared = None
        if declared is not None and declared.name != f"the run {self.run.id}":
            return declared.fitted_to(evaluation)
        if self.reference_night is None:
            return None
        job = value.job.name
        earlier = self.reference_night.evaluation(job)
        if earlier is None:
            return None
        of_job = {key: samples for key, samples in self.reference_night.samples.items() if key[0] == job}
        return Baseline(
            name=f"the run {self.reference_night.run.id}", samples=of_job, engine=earlier.engine, evaluation=earlier,
        ).fitted_to(evaluation)  # fmt: skip

    def read_samples(self, evaluation: Evaluation) -> Samples:
        """The answers of an evaluation of this run, read once; raises HistoryError."""
        job = evaluation.job.name
        if job not in self.logs:
            self.logs[job] = self.read_logs(evaluation)
        return self.logs[job]

    def read_logs(self, evaluation: Evaluation) -> Samples:
        """Read the answers from the folder of the run; raises HistoryError.

        The absolute path in the evaluation is tried second, because a store may have been moved.
        """
        job = evaluation.job.name
        if self.folder is None:
            return self.history_samples
        folder = kept_files.find_folder(self.folder, evaluation)
        if not folder.is_dir():
            raise HistoryError("the samples of this run are not there any more")
        kept_files.require_measured_files(evaluation, folder)
        return read_logs(job, folder)

    @cached_property
    def history_samples(self) -> Samples:
        """The samples of a run that only the history holds; raises HistoryError."""
        assert self.opened_history is not None
        return compare.from_history(self.opened_history, self.opened_history.find(self.run.id)).samples

    def text_remarks(self) -> list[str]:
        """Which texts of changed documents the page leaves out."""
        left = self.texts.left_out
        short = f"{left} changed documents are shown without their texts, for which the page has no room"
        return [*self.texts.unreadable, *([short] if left else [])]

    def damage_remarks(self) -> list[str]:
        """What is damaged in the history."""
        return [str(problem) for problem in self.opened_history.problems] if self.opened_history is not None else []
