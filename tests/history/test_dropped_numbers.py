"""A number that was taken out of a run file is missed by what lies beside the run."""

from __future__ import annotations

import shutil
from dataclasses import replace

from scanproof.record import Run
from tests.support.measured_run import Measured, judge, with_evaluation


def drop(run: Run, number: str) -> Run:
    """The run without a number, made smaller in every place of its file that counts or names numbers."""
    kept = tuple(record for record in run.records if record.id != number)
    return replace(
        run,
        records=kept,
        selected=len(kept),
        selected_ids=tuple(record.id for record in kept),
        due=tuple(name for name in run.due if name != number),
    )


class TestDroppedNumbers:
    def test_a_number_that_was_dropped_is_named_by_the_evaluation_that_was_asked_for_it(self, own: Measured) -> None:
        number = own.run.records[0].id
        assert judge(own, drop(own.run, number)) == [
            f"1 numbers that its jobs were measured for are not in the run: {number}"
        ]

    def test_also_where_the_evaluation_in_the_run_file_is_changed_with_it(self, own: Measured) -> None:
        number, other = (record.id for record in own.run.records)
        (evaluation,) = own.run.evaluations
        run = replace(drop(own.run, number), evaluations=(replace(evaluation, asked=(other,)),))
        objections = judge(own, run)
        assert len(objections) == 2
        assert objections[0].endswith(f": it is another evaluation of {evaluation.job.name} than the one in the run")
        assert objections[1].endswith(f"are not in the run: {number}")

    def test_an_evaluation_that_is_gone_beside_the_run_is_missed(self, own: Measured) -> None:
        (path,) = own.store.glob("runs/*/evaluations/*.json")
        path.write_text("{ not json")
        assert [line.partition(": ")[2] for line in judge(own, own.run)] == [
            "cannot be read: 1 validation error for Evaluation",
            "it is gone or damaged; it says which numbers were measured",
        ]
        path.unlink()
        assert judge(own, own.run) == [f"{path}: it is gone or damaged; it says which numbers were measured"]

    def test_a_job_that_was_dropped_is_named_by_what_lies_beside_the_run(self, own: Measured) -> None:
        (path,) = own.store.glob("runs/*/evaluations/*.json")
        other, broken = path.with_name("other.json"), path.with_name("third.error")
        other.write_bytes(path.read_bytes())
        broken.write_text('["killed", "it ended", null, null]')
        assert judge(own, own.run) == [
            f"{other}: the run does not have this evaluation",
            f"{broken}: the job third broke, and the run has no number of it",
        ]

    def test_a_task_that_no_number_of_the_run_needs_is_named(self, own: Measured) -> None:
        """Also in a run of before, whose evaluations do not say for which numbers they were made."""
        (evaluation,) = own.run.evaluations
        job = replace(evaluation.job, tasks=("lambada_openai", "piqa"))
        said = f"{job.name} measured piqa, and the run has no number of it"
        assert said in judge(own, with_evaluation(own, job=job, asked=()))

    def test_a_run_of_before_is_judged_without_what_was_asked(self, own: Measured) -> None:
        run = with_evaluation(own, asked=())
        assert judge(own, run) == []
        assert judge(own, drop(run, own.run.records[0].id)) == [], "nothing says so: docs/nightly.md"
        shutil.rmtree(own.store / "runs" / own.run.id / "evaluations")
        assert judge(own, run) == []
