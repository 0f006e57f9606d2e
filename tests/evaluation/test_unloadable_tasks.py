"""A task that cannot be loaded costs its own numbers only: the rest of its job is measured."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from scanproof.errors import EvaluationError
from scanproof.evaluation.evaluate_job import evaluate
from scanproof.evaluation.request import leave_out_tasks
from tests.support import small_mirror as small
from tests.support.small_jobs import mirror, own
from tests.support.small_project import Project

__all__ = ["mirror", "own"]
JOB = replace(small.JOB, tasks=("arc_easy", "openbookqa"))
SCRIPT = "import datasets\n\nclass Rows(datasets.GeneratorBasedBuilder):\n    pass\n"


def test_data_that_the_mirror_lacks_and_names_that_lm_eval_lacks_are_left_out(own: Path, tmp_path: Path) -> None:
    settings = small.settings(tmp_path, own)
    kept, errors = leave_out_tasks(replace(JOB, tasks=("arc_eazy", *JOB.tasks)), settings)
    assert list(kept) == ["arc_easy"]
    assert {task: error.kind for task, error in errors.items()} == {"arc_eazy": "worker", "openbookqa": "missing"}
    assert "has no dataset allenai/openbookqa" in errors["openbookqa"].message


def test_a_group_without_the_data_of_its_tasks_costs_all_of_them(own: Path, tmp_path: Path) -> None:
    _, errors = leave_out_tasks(replace(JOB, tasks=("arc_easy", "mmlu_stem")), small.settings(tmp_path, own))
    assert len(errors) == 19
    assert "mmlu_anatomy" in errors


def test_a_job_without_any_task_is_an_error(own: Path, tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match="has no dataset allenai/openbookqa"):
        leave_out_tasks(replace(JOB, tasks=("openbookqa", "piqa")), small.settings(tmp_path, own))


def test_a_dataset_that_is_a_script_leaves_the_other_tasks_measured(own: Path, tmp_path: Path) -> None:
    folder = own / "allenai" / "openbookqa"
    folder.mkdir()
    (folder / "openbookqa.py").write_text(SCRIPT)
    (folder / "README.md").write_text("about\n")
    settings = small.settings(tmp_path, own)
    measured = evaluate(JOB, settings, progress=small.ignore)
    assert measured.job == JOB
    assert {one.task for one in measured.measurements} == {"arc_easy"}
    assert set(measured.unmeasured) == {"openbookqa"}
    assert measured.unmeasured["openbookqa"].kind == "dataset"
    assert evaluate(JOB, settings, progress=small.ignore).unmeasured == measured.unmeasured
    later = evaluate(JOB, replace(settings, session="later"), progress=small.ignore)
    assert not later.reused
    assert later.environment["recomputed_because"] == ["openbookqa: could not be loaded then"]


PLUGIN = """
from dataclasses import replace
import pytest
from scanproof.record import Unmeasured

@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_scanproof_evaluate(job):
    evaluation = yield
    kept = tuple(one for one in evaluation.measurements if one.task != "arc_easy")
    left_out = {"arc_easy": Unmeasured(kind="KIND", message="its repository is a script")}
    return replace(evaluation, measurements=kept, unmeasured=left_out)
"""


@pytest.mark.parametrize(
    ("kind", "options", "outcomes"),
    [
        ("dataset", (), {"passed": 1, "errors": 2}),
        ("missing", (), {"passed": 1, "skipped": 2}),
        ("missing", ("--scanproof-strict",), {"passed": 1, "errors": 2}),
    ],
)
def test_its_numbers_end_alone_and_say_why(
    project: Project, kind: str, options: tuple[str, ...], outcomes: dict[str, int]
) -> None:
    project.document(models=("one",))
    (project.root / "unloadable.py").write_text(PLUGIN.replace("KIND", kind))
    result = project.run("-p", "unloadable", *options)
    result.assert_outcomes(**outcomes)
    result.stdout.fnmatch_lines(["*arc_easy: its repository is a script*"])
