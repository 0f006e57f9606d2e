"""From a run on disk to its report: finds the nights before it, its samples and what they are compared with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from scanproof.history import baseline, compare
from scanproof.history import nights as series
from scanproof.history.errors import HistoryError
from scanproof.history.samples import read_logs
from scanproof.history.second_gate import SecondGate
from scanproof.history.store import History, open_history
from scanproof.numbers.expected.reader import Expected
from scanproof.numbers.values import PublishedValue
from scanproof.numbers.verdict.answers import Samples
from scanproof.numbers.verdict.baseline_gate import Baseline
from scanproof.record import Evaluation, Run
from scanproof.report import content, nights, samples
from scanproof.report.build import Material, build
from scanproof.report.nights import PastNight, Since

TRIED = 5
"""Nights whose samples are looked for."""


@dataclass
class Reporter:
    """Makes the report of one run; what could not be read on the way is said in it."""

    run: Run
    folder: Path | None
    """The run's folder in a local store; None where the run lies in a history only."""
    store: Path
    """The local store."""
    expected: Expected | None
    history: str | None
    """Folder or URL."""
    since: Since | None = None
    remarks: list[str] = field(default_factory=list)
    logs: dict[str, Samples] = field(default_factory=dict)
    texts: samples.Texts = field(init=False)

    def __post_init__(self) -> None:
        self.texts = samples.Texts(self.folder)

    def report(self, *, with_samples: bool = True) -> content.Report:
        """Everything that the page says."""
        find = self.changed if with_samples and self.expected is not None else None
        material = Material(
            run=self.run, past=self.past, expected=self.expected, samples=find, drifts=self.drifts(),
            remarks=self.remarks, store=str(self.store) if self.folder is not None else None,
        )  # fmt: skip
        made = build(material)
        return content.with_remarks(made, [*self.remarks, *self.about_texts(), *self.skipped()])

    @cached_property
    def opened(self) -> History | None:
        """The history, None where there is none or where it cannot be reached."""
        if self.history is None:
            return None
        try:
            return open_history(self.history)
        except HistoryError as error:
            self.remarks.append(f"no trends from the history: {error}")
            return None

    @cached_property
    def past(self) -> list[PastNight]:
        """Earlier runs: of the history, or of the local store where the history has none."""
        if self.opened is not None:
            try:
                found = nights.from_history(self.opened, self.run, self.since)
                if found:
                    return found
            except HistoryError as error:
                self.remarks.append(f"no trends from the history: {error}")
        kept, problems = nights.from_store(self.store / "runs", self.run, self.since)
        self.remarks += problems
        return kept

    @cached_property
    def referred(self) -> compare.Whole | None:
        """What documents are compared with where no baseline was declared: the last good night that kept samples.

        Without a good one among those that are near, the last night that kept any.
        """
        good = [night for night in reversed(self.past) if night.good]
        others = [night for night in reversed(self.past) if not night.good]
        for night in (*good[:TRIED], *others[:TRIED]):
            try:
                found = night.whole()
            except HistoryError as error:
                self.remarks.append(f"documents cannot be compared with {night.run}: {error}")
                continue
            if found.samples:
                return found
        return None

    @cached_property
    def gate(self) -> SecondGate:
        assert self.expected is not None
        return SecondGate(self.expected, self.history)

    @cached_property
    def evaluations(self) -> Mapping[str, Evaluation]:
        return {each.job.name: each for each in self.run.evaluations}

    def drifts(self) -> tuple[str, ...]:
        """Drifts up to the newest night of the history, where this run is that night."""
        if self.opened is None or self.expected is None:
            return ()
        try:
            runs = self.opened.runs()
            if not runs or runs[-1].id != self.run.id:
                return ()
            return tuple(map(series.sentence, series.drifts(self.opened, self.expected.constants)))
        except HistoryError as error:
            self.remarks.append(f"drifts are not known: {error}")
            return ()

    def changed(self, value: PublishedValue) -> content.Samples:
        """The documents of a number that are not as in its baseline."""
        evaluation = self.evaluations.get(value.job.name)
        if evaluation is None:
            return samples.nothing("the run kept no evaluation of this job")
        try:
            before = self.baseline(value, evaluation)
            if before is None:
                return samples.nothing("there is no earlier run of this job to compare with")
            harness = (before.harness, baseline.harness(evaluation.environment))
            if harness[0] != harness[1]:
                return samples.nothing(f"lm-eval {harness[1]} now, {harness[0]} there", before.name)
            return samples.changed(value, self.samples(evaluation), before, self.texts)
        except HistoryError as error:
            return samples.nothing(str(error))

    def baseline(self, value: PublishedValue, evaluation: Evaluation) -> Baseline | None:
        """The declared baseline, the answers kept with the values, or the last good night; raises HistoryError."""
        try:
            found = self.gate.baseline(value, evaluation)
        except HistoryError as error:
            self.remarks.append(str(error))
            found = None
        if found is not None and found.name != f"the run {self.run.id}":
            return found
        if self.referred is None:
            return None
        job = value.job.name
        earlier = self.referred.evaluation(job)
        if earlier is None:
            return None
        kept = {key: each for key, each in self.referred.samples.items() if key[0] == job}
        return Baseline(
            name=f"the run {self.referred.run.id}", samples=kept, harness=baseline.harness(earlier.environment),
            engine=earlier.engine,
        ).against(evaluation.engine)  # fmt: skip

    def samples(self, evaluation: Evaluation) -> Samples:
        """What the documents of an evaluation of this run got; raises HistoryError."""
        job = evaluation.job.name
        if job not in self.logs:
            self.logs[job] = self.read(evaluation)
        return self.logs[job]

    def read(self, evaluation: Evaluation) -> Samples:
        """From beside the run: stores are moved, absolute paths are not."""
        job = evaluation.job.name
        if self.folder is None:
            return self.published
        beside = self.folder / "samples" / job
        folder = beside if beside.is_dir() else Path(evaluation.samples)
        if not folder.is_dir():
            raise HistoryError("the samples of this run are not there any more")
        return read_logs(job, folder)

    @cached_property
    def published(self) -> Samples:
        """The samples of a run that lies in the history only; raises HistoryError."""
        assert self.opened is not None
        return compare.from_history(self.opened, self.opened.find(self.run.id)).samples

    def about_texts(self) -> list[str]:
        """What the page leaves out of the samples."""
        left = self.texts.left_out
        short = f"{left} changed documents are shown without their texts, for which the page has no room"
        return [*self.texts.unreadable, *([short] if left else [])]

    def skipped(self) -> list[str]:
        """What was damaged in the history."""
        return [str(problem) for problem in self.opened.problems] if self.opened is not None else []
