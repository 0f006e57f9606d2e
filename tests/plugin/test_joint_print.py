"""A shift of every number of a model, each within its own tolerance, fails the session."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.small_project import Project

TASKS = {"arc_easy": 2376, "hellaswag": 10042, "piqa": 1838, "winogrande": 1267}


@pytest.fixture
def printed(project: Project) -> Project:
    folder = project.document(models=("one",), numbers=len(TASKS))
    path = folder / "one.yaml"
    head = path.read_text().split("values:\n")[0]
    rows = [
        f'  - {{task: {task}, metric: acc, line: {line}, origin: author, printed: "0.5000", unit: fraction}}\n'
        for line, task in enumerate(TASKS, 3)
    ]
    path.write_text(head + "values:\n" + "".join(rows))
    return project


@pytest.mark.parametrize(("shift", "code"), [(-0.0066, pytest.ExitCode.TESTS_FAILED), (-0.004, pytest.ExitCode.OK)])
def test_a_shift_of_all_numbers(printed: Project, shift: float, code: pytest.ExitCode) -> None:
    printed.answer([[task, "acc", 0.5 + shift, n] for task, n in TASKS.items()])
    result = printed.run()
    result.assert_outcomes(passed=4)
    assert result.ret == code
    run: Any = printed.latest_run()
    (finding,) = run["joint"]
    assert (finding["subject"], finding["baseline"]) == ("org/one", "what was printed")
    if code is pytest.ExitCode.TESTS_FAILED:
        result.stdout.fnmatch_lines(["all numbers of org/one together: 4 printed numbers of 15523 documents: net -10*"])


def test_numbers_of_some_documents_are_not_added_up(printed: Project) -> None:
    printed.answer([[task, "acc", 0.3, n] for task, n in TASKS.items()])
    printed.run("--scanproof-limit=3")
    run: Any = printed.latest_run()
    assert run["joint"] == []
