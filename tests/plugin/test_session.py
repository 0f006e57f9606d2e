"""One session: each job once, whatever process asks for it and however it ends."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from scanproof.errors import EvaluationError
from scanproof.history.second_gate import SecondGate
from scanproof.numbers.expected.reader import Expected
from scanproof.numbers.values import EvalJob, Part, PublishedValue
from scanproof.numbers.verdict.answers import Samples
from scanproof.plugin.evaluator import Evaluator, covering
from scanproof.plugin.run_recorder import new_run_id
from scanproof.record import Evaluation
from tests.support.builders import CONSTANTS, JOB, published
from tests.support.evidence import keep_answers

STEM = ("mmlu_anatomy", "mmlu_astronomy")
MMLU = (*STEM, "mmlu_philosophy")
WIDE = replace(JOB, tasks=("lambada_openai", "mmlu", "mmlu_anatomy", "openbookqa", "piqa"))


def parts(*names: str) -> tuple[Part, ...]:
    return tuple(Part(task=name, metric="acc") for name in names)


class Counted:
    """An evaluation that notes which jobs it was asked for."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error
        self.asked: list[EvalJob] = []

    def __call__(self, job: EvalJob) -> Evaluation:
        self.asked.append(job)
        if self.error is not None:
            raise self.error
        return Evaluation(job=job, key="k", measurements=(), samples="nowhere", command="lm_eval")


def test_two_runs_of_one_second_have_names_of_their_own_that_begin_with_the_time() -> None:
    started = datetime(2026, 11, 20, 16, 45, tzinfo=UTC)
    names = {new_run_id(started) for _ in range(100)}
    assert len(names) == 100
    assert all(name.startswith("20261120T164500Z-") for name in names)


class TestOnce:
    def test_a_job_runs_once_in_a_process_and_once_in_a_session(self, tmp_path: Path) -> None:
        evaluate = Counted()
        evaluator = Evaluator(evaluate, tmp_path)
        first = evaluator(JOB)
        assert evaluator(JOB) is first
        assert Evaluator(evaluate, tmp_path)(JOB) == first
        assert evaluate.asked == [JOB]

    def test_a_job_that_failed_in_another_process_fails_alike_and_does_not_run_again(self, tmp_path: Path) -> None:
        error = EvaluationError("killed", "the worker was killed by SIGKILL", "last words", "failed/worker.log")
        with pytest.raises(EvaluationError):
            Evaluator(Counted(error), tmp_path)(JOB)
        (left,) = tmp_path.rglob("*.error")
        assert left.stem == JOB.name
        evaluate = Counted()
        with pytest.raises(EvaluationError) as caught:
            Evaluator(evaluate, tmp_path)(JOB)
        assert str(caught.value) == str(error)
        assert caught.value.args == error.args
        assert evaluate.asked == []

    @pytest.mark.parametrize("error", [OSError(28, "No space left on device"), ValueError("no such thing")])
    def test_whatever_breaks_is_an_error_of_the_job_and_is_remembered(self, tmp_path: Path, error: Exception) -> None:
        evaluate = Counted(error)
        evaluator = Evaluator(evaluate, tmp_path)
        for asking in (evaluator, evaluator, Evaluator(evaluate, tmp_path)):
            with pytest.raises(EvaluationError) as caught:
                asking(JOB)
            assert caught.value.kind == "worker"
            assert caught.value.message == f"{type(error).__name__}: {error}"
        assert len(evaluate.asked) == 1

    def test_another_job_of_the_session_is_not_touched(self, tmp_path: Path) -> None:
        evaluate = Counted(ValueError("broken"))
        evaluator = Evaluator(evaluate, tmp_path)
        with pytest.raises(EvaluationError):
            evaluator(JOB)
        evaluate.error = None
        assert evaluator(replace(JOB, name="other")).job.name == "other"


@pytest.fixture
def narrow(tmp_path: Path) -> Callable[..., tuple[str, ...]]:
    """The tasks that reach the evaluation when these values are selected."""

    def narrow(*values: PublishedValue) -> tuple[str, ...]:
        evaluate = Counted()
        evaluator = Evaluator(evaluate, tmp_path)
        evaluator.select(replace(value, job=WIDE) for value in values)
        evaluator(WIDE)
        return evaluate.asked[0].tasks

    return narrow


class TestNarrowing:
    def test_only_selected_tasks_run(self, narrow: Callable[..., tuple[str, ...]]) -> None:
        assert narrow(published(task="piqa")) == ("piqa",)

    def test_two_metrics_of_a_task_need_it_once(self, narrow: Callable[..., tuple[str, ...]]) -> None:
        assert narrow(published(task="piqa"), published(task="piqa", metric="acc_norm")) == ("piqa",)

    def test_a_subject_inside_a_selected_group_is_not_run_twice(self, narrow: Callable[..., tuple[str, ...]]) -> None:
        group = published(task="mmlu", parts=parts(*MMLU), pooled=True)
        stem = published(task="mmlu_stem", parts=parts(*STEM), pooled=True)
        subject = published(task="mmlu_anatomy")
        assert narrow(subject, stem, group) == ("mmlu",)
        assert covering({"mmlu_anatomy": frozenset({"mmlu_anatomy"}), "mmlu_stem": frozenset(STEM)}) == ("mmlu_stem",)

    def test_an_average_needs_its_parts_and_is_no_task(self, narrow: Callable[..., tuple[str, ...]]) -> None:
        average = published(task="average", documents=None, parts=parts("piqa", "openbookqa"))
        assert narrow(average, published(task="piqa")) == ("openbookqa", "piqa")

    def test_a_job_that_nobody_narrowed_runs_all_its_tasks(self, tmp_path: Path) -> None:
        evaluate = Counted()
        Evaluator(evaluate, tmp_path)(WIDE)
        assert evaluate.asked[0].tasks == WIDE.tasks


def gate(folder: Path) -> SecondGate:
    expected = Expected(values=(), unrecorded=(), documents=(), tasks={}, constants=CONSTANTS, folder=folder)
    return SecondGate(expected, None)


def test_answers_are_read_once_before_and_after_they_are_placed_beside_the_run(tmp_path: Path) -> None:
    measured = keep_answers(tmp_path / "stored", {"piqa": {"acc": (0.5, 4)}})
    kept = gate(tmp_path)

    def evaluate(job: EvalJob) -> Evaluation:
        made = Evaluation(job=job, key="k", measurements=measured, samples=str(tmp_path / "stored"), command="")
        read.append(kept.samples(made))
        return made

    read: list[Samples] = []
    placed = Evaluator(evaluate, tmp_path / "run", moved=kept.move_logs)(JOB)
    assert placed.samples == str(tmp_path / "run" / "samples" / JOB.name)
    assert kept.samples(placed) is read[0]
    assert list(kept.logs) == [(JOB.name, placed.samples)]


def test_one_folder_of_answers_serves_two_jobs(tmp_path: Path) -> None:
    """Two documents may print numbers of one evaluation."""
    keep_answers(tmp_path / "stored", {"piqa": {"acc": (0.5, 4)}})
    kept = gate(tmp_path)
    assert [list(kept.logged(job, str(tmp_path / "stored"))) for job in ("a", "b")] == [
        [("a", "piqa")],
        [("b", "piqa")],
    ]
