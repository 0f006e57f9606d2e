"""How far the answers of a number moved from those that they are compared with.  Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from scanproof.numbers.verdict import baseline_gate, rounding
from scanproof.numbers.verdict.baseline_gate import TaskPair
from scanproof.triage.evidence import Evidence, Side, TaskAnswers


@dataclass(frozen=True)
class Task:
    """One task on both sides."""

    name: str
    metric: str
    before: TaskAnswers
    now: TaskAnswers

    @property
    def pairable(self) -> bool:
        """The same documents, with the same number of answers each."""
        old, new = self.before.samples, self.now.samples
        return old.doc_ids == new.doc_ids and [len(v) for v in old.loglikelihoods] == [
            len(v) for v in new.loglikelihoods
        ]

    @property
    def pair(self) -> TaskPair:
        return TaskPair(self.before.samples, self.now.samples)


def pair_tasks(evidence: Evidence, side: Side | None) -> list[Task]:
    """The tasks of the number that both sides hold."""
    if side is None or evidence.now is None:
        return []
    return [
        Task(name, metric, side.tasks[name], evidence.now.tasks[name])
        for name, metric in evidence.leaves
        if name in side.tasks and name in evidence.now.tasks
    ]


def has_same_questions(task: Task) -> bool:
    """Whether documents, prompts and choices are the same, so that only the computation can differ."""
    return baseline_gate.explain_unpaired(
        task.before.samples, task.now.samples, task.name
    ) is None and not find_other_choices(task)


def find_other_choices(task: Task) -> list[int]:
    """doc_ids of documents with other choices; lm-eval's hashes do not cover the choices.

    Empty where the questions of a side were not kept.
    """
    old, new = task.before.texts, task.now.texts
    if old is None or new is None:
        return []
    return [doc for doc in sorted(old.keys() & new.keys()) if old[doc]["choices"] != new[doc]["choices"]]


def measure_moves(task: Task) -> Iterator[tuple[int, float]]:
    """doc_id and the largest move of its answers, in nats; only of a task that can be paired."""
    old, new = task.before.samples, task.now.samples
    for doc, before, now in zip(new.doc_ids, old.loglikelihoods, new.loglikelihoods, strict=True):
        yield doc, max((abs(b - a) if a != b else 0.0 for a, b in zip(before, now, strict=True)), default=0.0)


def find_largest_move(tasks: list[Task]) -> float | None:
    """The largest move of any answer, in nats; None where nothing can be paired."""
    every = [moved for task in tasks if task.pairable for _, moved in measure_moves(task)]
    return max(every) if every else None


def find_threshold(side: Side) -> float:
    """Nats above which an answer is called moved: the ceiling of rounding, or that of float32 where none is known."""
    return rounding.FLOAT32_CEILING if side.ceiling is None else side.ceiling


def have_answers_moved(evidence: Evidence) -> bool | None:
    """Whether any answer moved further than rounding moves it; None where nothing can be compared."""
    side = evidence.answers
    if side is None:
        return None
    moved = find_largest_move(pair_tasks(evidence, side))
    return None if moved is None else moved > find_threshold(side)
