"""Judges a run once more from what it kept, in a process that no test, hook or `conftest.py` of its session is in."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path

from scanproof.errors import EvaluationError
from scanproof.evaluation.job_match import list_differences
from scanproof.evaluation.kernels_ran import require_kernels
from scanproof.files import is_folder
from scanproof.history.declarations import is_name
from scanproof.history.dropped_numbers import list_dropped
from scanproof.history.joint_findings import judge_together
from scanproof.history.kept_files import list_other_files
from scanproof.history.run_failures import (
    ended_badly,
    list_certain_failures,
    list_failures_so_far,
    name_some,
    nothing_compared,
    unfinished,
    untold_end,
)
from scanproof.history.second_gate import SecondGate
from scanproof.numbers.expected.reader import Expected
from scanproof.numbers.values import PublishedValue, Suite
from scanproof.numbers.verdict import derive
from scanproof.numbers.verdict.outcome import Outcome
from scanproof.numbers.verdict.paired_tests import ComparisonOutcome, PairedComparison
from scanproof.record import Evaluation, Record, Run

LATE = "the session left no run, or a clock was set"


@dataclass(frozen=True)
class Asked:
    """What a run has to be."""

    strict: bool = False
    """Whether only a strict run will do."""
    after: datetime | None = None
    """It, and every measurement of it, has to have begun then or later; None for no matter when."""
    suite: Suite | None = None
    """All printed numbers of this suite have to have been selected; None for no matter which."""


@dataclass(frozen=True)
class SecondJudge:
    """Judges one run by the expected values of now."""

    run: Run
    file: Path
    """Where the run was read; its answers lie beside it."""
    expected: Expected
    history: str | None
    """Folder or URL of the history with the declared baselines; None for none."""

    @cached_property
    def gate(self) -> SecondGate:
        """The gates of a strict session: what cannot be made again or compared is no agreement."""
        return SecondGate(self.expected, self.history, strict=True, limit=self.run.limit)

    @cached_property
    def evaluations(self) -> tuple[Evaluation, ...]:
        """All evaluations, with their answers where the run lies now.  Two jobs can have the same key."""
        return tuple(map(self._beside, self.run.evaluations))

    def _beside(self, evaluation: Evaluation) -> Evaluation:
        """The evaluation with its answers, and those that it replaced, where the run lies now."""
        replaced = evaluation.replaced
        if replaced is not None and replaced.samples is not None:
            replaced = replace(replaced, samples=self._move(replaced.samples, "replaced"))
        return replace(evaluation, samples=self._move(evaluation.samples, "samples"), replaced=replaced)

    def _move(self, path: str, kind: str) -> str:
        """A folder of answers where the run lies now; one that was not beside the run stays where it was."""
        beside = Path(path).parts[-3:-1] == (self.run.id, kind)
        return str(self.file.parent / kind / Path(path).name) if beside else path

    def list_objections(self, asked: Asked) -> list[str]:
        """Every reason why the run is no evidence of a green session, in words; empty where it is."""
        failures = list_failures_so_far(self.run) if self.run.strict else list_certain_failures(self.run)
        return [
            *self._list_odd(asked),
            *(failures or ended_badly(self.run)),
            *self._list_unselected(asked),
            *list_dropped(self.run, self.file.parent, self.expected),
            *self._judge_evaluations(asked),
            *self._judge_numbers(),
            *self._judge_together(),
        ]

    def _list_odd(self, asked: Asked) -> Iterator[str]:
        """That this is not the run that was asked for, or only a part of it."""
        began = read_time(self.run.started)
        if began is None:
            yield f"when it began is no time: {self.run.started!r}"
        elif began > datetime.now(UTC):
            yield f"it began at {self.run.started}, which is still to come: a clock was set"
        elif asked.after is not None and began < asked.after:
            yield f"it began at {self.run.started}, before {asked.after.isoformat(timespec='seconds')}: {LATE}"
        yield from unfinished(self.run)
        yield from untold_end(self.run)
        if asked.strict and not self.run.strict:
            yield "its session was not strict"
        if all(record.verdict is None for record in self.run.records):
            yield "it measured no published number, and nothing else can be judged again"
        yield from nothing_compared(self.run)

    def _list_unselected(self, asked: Asked) -> Iterator[str]:
        """The numbers of the suite that the session did not select: what nobody asks for cannot fail."""
        wanted = [value.id for value in self.expected.values if value.job.suite == asked.suite]
        left = sorted(set(wanted) - set(self.run.selected_ids))
        if left:
            what = f"{len(left)} of {len(wanted)} numbers of the suite {asked.suite}"
            yield f"{what} were not selected: {name_some(left)}"

    def _judge_evaluations(self, asked: Asked) -> Iterator[str]:
        """The evaluations that are of another job, of another time or without proof, and those without answers."""
        jobs = {value.job.name: value.job for value in self.expected.numbers}
        for evaluation in self.evaluations:
            name = evaluation.job.name
            if not is_folder(Path(evaluation.samples)):
                yield f"the answers of {name} are gone: there is no folder {evaluation.samples}"
            yield from self._list_other_files(evaluation)
            measured = read_time(evaluation.measured or "")
            if asked.after is not None and (evaluation.reused or measured is None or measured < asked.after):
                when = evaluation.measured or "a time that it does not say"
                yield f"{name} was measured at {when}, and reused: not in the session that was asked for"
            if name in jobs:
                job = replace(jobs[name], tasks=evaluation.job.tasks, limit=self.run.limit)
                yield from (f"{name}: {difference}" for difference in list_differences(evaluation, job))
                try:
                    require_kernels(job, evaluation)
                except EvaluationError as error:
                    yield f"{name}: {error}"

    def _list_other_files(self, evaluation: Evaluation) -> Iterator[str]:
        """The files of answers that are not those that were measured."""
        folder = Path(evaluation.samples)
        if is_folder(folder):
            yield from list_other_files(evaluation.kept, folder)
        replaced = evaluation.replaced
        if replaced is not None and replaced.samples is not None:
            yield from list_other_files(replaced.kept, Path(replaced.samples))

    def _judge_numbers(self) -> Iterator[str]:
        """The numbers whose answers give another verdict than the run says."""
        values = {value.id: value for value in self.expected.numbers}
        for record in self.run.records:
            if record.verdict is not None:
                yield from self._judge(record, values.get(record.id))

    def _judge(self, record: Record, value: PublishedValue | None) -> Iterator[str]:
        """What is wrong with the verdict on a number, judged by the evaluation of its own job where the run has one."""
        if value is None:
            yield f"{record.id}: there is no such number among the expected values"
            return
        of_key = [each for each in self.evaluations if each.key == record.evaluation_key]
        of_job = [each for each in self.evaluations if each.job.name == value.job.name]
        both = [each for each in of_key if each.job.name == value.job.name]
        # A job may have been renamed since.
        evaluation = next(iter(both or of_key), None)
        if of_key and of_job and not both:
            made = of_key[0].job.name
            yield f"{record.id}: its verdict was made from the evaluation of {made}; its job is {value.job.name}"
        elif evaluation is None:
            yield f"{record.id}: the run does not have its evaluation"
        elif is_folder(Path(evaluation.samples)):
            try:
                judged = self.gate.judge(value, evaluation, self.run.due)
            except derive.DeriveError as error:
                yield f"{record.id}: {error}"
                return
            if judged.verdict.outcome.value != record.outcome:
                now = f"{judged.verdict.outcome.value}, {judged.verdict.because}"
                yield f"{record.id}: the run says {record.outcome}, its answers {now}"
            elif record.gate is not None and judged.comparison is None:
                yield from self._ask_for_history(record, record.gate)

    def _ask_for_history(self, record: Record, gate: PairedComparison) -> Iterator[str]:
        """That a comparison of the run cannot be made here; one that was due and refused fails its number anyway.

        Where a history is named, its baselines are known: a refusal without a declared run was no comparison.
        """
        was_compared = gate.outcome is not ComparisonOutcome.REFUSED
        unknown = self.gate.history is None or is_name(gate.baseline)
        if record.outcome != Outcome.COMPARISON_MISSING and (was_compared or unknown):
            done = "compared" if was_compared else "refused a comparison"
            yield f"{record.id}: the run was {done} with {gate.baseline}; name that history with --history"

    def _judge_together(self) -> Iterator[str]:
        """What many numbers show together, and the run does not say."""
        selected = [value for value in self.expected.numbers if value.id in set(self.run.selected_ids)]
        known = {comparison.subject for comparison in self.run.joint if comparison.changed}
        run = replace(self.run, evaluations=self.evaluations)
        for comparison in judge_together(self.gate, run, selected):
            if comparison.changed and comparison.subject not in known:
                yield f"{comparison.subject}: {comparison.because}, of which the run says nothing"


def list_others(runs: Path, run: Run, after: datetime) -> list[str]:
    """Ids of the other runs of a store that began at a time or later, as their names say; sorted."""
    stamp = after.astimezone(UTC).strftime("%Y%m%dT%H%M%SZ")
    names = sorted(path.name for path in runs.iterdir() if is_folder(path))
    return [name for name in names if name != run.id and name.partition("-")[0] >= stamp]


def read_time(text: str) -> datetime | None:
    """A time as ISO 8601 writes it, with its offset; None where it is none, or does not say its offset."""
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        return None
    return time if time.tzinfo is not None else None
