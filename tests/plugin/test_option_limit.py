"""--scanproof-limit: a subset, which is never compared."""

from __future__ import annotations

import pytest

from tests.support.small_project import Project


def test_a_subset_is_never_compared_with_a_number_for_the_full_set(project: Project) -> None:
    project.document(models=("one",))
    result = project.run("--scanproof-limit", "10")
    result.assert_outcomes(skipped=3)
    result.stdout.fnmatch_lines(["*3 numbers: 3 NOT_COMPARABLE*"])
    assert project.jobs()[0][2] == 10
    assert project.latest_run()["limit"] == 10


@pytest.mark.parametrize("text", ["0", "-1", "1.5", "many"])
def test_is_a_positive_whole_number(project: Project, text: str) -> None:
    project.document()
    result = project.run(f"--scanproof-limit={text}")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"*a limit is a positive whole number of documents, not '{text}'*"])
