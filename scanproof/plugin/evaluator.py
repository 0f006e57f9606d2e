"""One pytest session: each job runs once, each number gets a record, the run is written as it grows."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from filelock import FileLock

from scanproof import files
from scanproof.errors import EvaluationError
from scanproof.evaluation import kernels_ran
from scanproof.history.kept_files import digest_files
from scanproof.numbers.values import EvalJob, PublishedValue
from scanproof.numbers.verdict.remaking import list_terms
from scanproof.record import Evaluation

Evaluate = Callable[[EvalJob], Evaluation]


@dataclass
class Evaluator:
    """Runs each job at most once in this process and remembers how it ended."""

    evaluate: Evaluate
    folder: Path
    """Folder of this session's run; finished evaluations are written below it at once."""
    tasks_selected: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Job name to the tasks that the selected tests need; a job not named runs all its tasks."""
    single_tasks: dict[str, frozenset[str]] = field(default_factory=dict)
    """Job name to the single tasks that its selected numbers are made of."""
    numbers: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Job name to the ids of its selected numbers."""
    moved: Callable[[str, str, str], None] = lambda job, before, after: None
    """Called with a job and the folders from which and to which its answers were copied."""
    finished: dict[str, Evaluation | EvaluationError] = field(default_factory=dict)

    def select(self, values: Iterable[PublishedValue]) -> None:
        """Narrow each job to the tasks of these values, so that `-k` pays only for what it selects."""
        needed: dict[str, dict[str, frozenset[str]]] = {}
        for value in values:
            self.numbers[value.job.name] = (*self.numbers.get(value.job.name, ()), value.id)
            tasks = needed.setdefault(value.job.name, {})
            for name, leaves in list_roots(value):
                tasks[name] = tasks.get(name, frozenset()) | leaves
        self.tasks_selected = {name: covering(tasks) for name, tasks in needed.items()}
        self.single_tasks = {name: frozenset().union(*tasks.values()) for name, tasks in needed.items()}

    def narrowed(self, job: EvalJob) -> EvalJob:
        """The job with the tasks that were selected."""
        return replace(job, tasks=self.tasks_selected.get(job.name, job.tasks))

    def __call__(self, job: EvalJob) -> Evaluation:
        """What the job measured; raises the same EvaluationError for each number of a job that failed."""
        if job.name not in self.finished:
            self.finished[job.name] = self.once(job)
        outcome = self.finished[job.name]
        if isinstance(outcome, EvaluationError):
            raise outcome
        return outcome

    def once(self, job: EvalJob) -> Evaluation | EvaluationError:
        """Evaluate, unless another process of this session has: how it ended lies in the run's folder."""
        path = self.folder / "evaluations" / f"{job.name}.json"
        broken = path.with_suffix(".error")
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_suffix(".lock")):
            if path.is_file():
                return files.from_json(Evaluation, path.read_bytes())
            if broken.is_file():
                return EvaluationError(*json.loads(broken.read_bytes()))
            try:
                finished = self.evaluate(self.narrowed(job))
                kernels_ran.require_kernels(job, finished)
                evaluation = replace(self.with_samples(finished), asked=self.numbers.get(job.name, ()))
                with files.replace_atomically(path) as temporary:
                    temporary.write_bytes(files.to_json(evaluation))
            except EvaluationError as error:
                return keep_error(broken, error)
            except Exception as error:
                # Whoever implements the hook may raise anything; a job that broke is an error of its numbers only.
                return keep_error(broken, EvaluationError("worker", f"{type(error).__name__}: {error}"))
            return evaluation

    def with_samples(self, evaluation: Evaluation) -> Evaluation:
        """The evaluation with its samples placed beside the run, and the digest of each of their files."""
        samples = self.placed(evaluation.samples, "samples", evaluation.job.name)
        replaced = evaluation.replaced
        if replaced is not None and replaced.samples is not None:
            other = self.placed(replaced.samples, "replaced", evaluation.job.name)
            replaced = replace(replaced, samples=other, kept=digest_files(Path(other)))
        return replace(evaluation, samples=samples, kept=digest_files(Path(samples)), replaced=replaced)

    def placed(self, source: str, kind: str, job: str) -> str:
        """Put logs into a folder of the run; returns the folder."""
        target = self.folder / kind / job
        if Path(source).is_dir() and not target.exists():
            with files.replace_atomically(target) as temporary:
                shutil.copytree(source, temporary, copy_function=link_or_copy)
            self.moved(job, source, str(target))
        return str(target)


def keep_error(path: Path, error: EvaluationError) -> EvaluationError:
    """Leave an error for the other processes of this session, if that can be written; returns it."""
    with suppress(OSError), files.replace_atomically(path) as temporary:
        temporary.write_text(json.dumps([error.kind, error.message, error.last_words, error.log]))
    return error


def list_roots(value: PublishedValue) -> list[tuple[str, frozenset[str]]]:
    """The tasks that lm-eval has to run for a value: a group as one, each with the single tasks inside it."""
    leaves = [term.task for term in list_terms(value)]
    if value.parts and not value.pooled:
        return [(task, frozenset({task})) for task in leaves]
    return [(value.task, frozenset(leaves))]


def require_measured(value: PublishedValue, evaluation: Evaluation) -> None:
    """Raise EvaluationError where a task of this number could not be loaded, though others of its job could."""
    for task in sorted(frozenset().union(*(leaves for _, leaves in list_roots(value)))):
        left_out = evaluation.unmeasured.get(task)
        if left_out is not None:
            raise EvaluationError(left_out.kind, f"{task}: {left_out.message}")


def covering(tasks: dict[str, frozenset[str]]) -> tuple[str, ...]:
    """The tasks without those that lie inside a group among them, sorted."""
    kept: list[str] = []
    covered: frozenset[str] = frozenset()
    for name in sorted(tasks, key=lambda name: (-len(tasks[name]), name)):
        if not tasks[name] <= covered:
            kept.append(name)
            covered |= tasks[name]
    return tuple(sorted(kept))


def link_or_copy(source: str, target: str) -> None:
    """A hard link where the file system can, else a copy: samples of a night are large."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
