"""--scanproof-timeout: an evaluation that takes too long is stopped."""

from __future__ import annotations

import pytest

from tests.support.small_project import Project

PRINT_TIMEOUT = """
import pytest

@pytest.hookimpl(tryfirst=True)
def pytest_scanproof_evaluate(settings):
    print(f"timeout is {settings.timeout}")
    (settings.store / "seen").mkdir(parents=True, exist_ok=True)
"""


def test_reaches_the_evaluation(project: Project) -> None:
    project.document(models=("one",))
    (project.root / "plug.py").write_text(PRINT_TIMEOUT)
    result = project.run("-p", "plug", "-s", "--scanproof-timeout", "90")
    result.stdout.fnmatch_lines(["*timeout is 90.0*"])
    result.assert_outcomes(passed=3)


@pytest.mark.parametrize("text", ["0", "-3", "nan", "inf", "soon"])
def test_is_a_positive_number_of_seconds(project: Project, text: str) -> None:
    result = project.run(f"--scanproof-timeout={text}")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"*a timeout is a positive number of seconds, not '{text}'*"])
