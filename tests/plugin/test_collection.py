"""What pytest collects: every published number, by a name that reads, with nothing heavy imported."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from small_project import Project

ROOT = Path(__file__).parents[2]
SUITE = "tests/published"


def collect(*arguments: str) -> list[str]:
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", SUITE, *arguments]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return [line for line in result.stdout.splitlines() if "::" in line]


def test_marker_gpu_selects_the_385_published_numbers() -> None:
    ids = collect("-m", "gpu")
    assert len(ids) == len(set(ids)) == 385
    assert "tests/published/test_published.py::test_published[mamba-130m-lambada_openai-acc-paper]" in ids


def test_marker_embedded_selects_the_stand_ins_only() -> None:
    ids = collect("-m", "embedded")
    assert len(ids) >= 4 * 12
    assert not set(ids) & set(collect("-m", "gpu"))


def test_keyword_selects_by_model_task_and_origin() -> None:
    ids = collect("-k", "mamba-2.8b and hellaswag and paper")
    assert [name.partition("[")[2] for name in ids] == ["mamba-2.8b-hellaswag-acc_norm-paper]"]


def test_collection_imports_neither_torch_nor_lm_eval() -> None:
    program = (
        "import sys, pytest;"
        f"code = pytest.main(['--collect-only', '-q', {SUITE!r}]);"
        "heavy = {'torch', 'lm_eval', 'transformers', 'datasets'} & set(sys.modules);"
        "sys.exit(f'imported {heavy}' if heavy else int(code))"
    )
    result = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


def test_numbers_of_one_job_stand_together(project: Project) -> None:
    project.document()
    lines = project.run("--collect-only", "-q").outlines
    models = [line.partition("[")[2].partition("-")[0] for line in lines if "::" in line]
    assert models == ["one"] * 3 + ["two"] * 3


def test_without_expected_values_a_test_that_asks_for_them_is_told_the_option(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("def test_number(scanproof_value): pass")
    result = pytester.runpytest_subprocess("--scanproof-expected", str(pytester.mkdir("empty")))
    assert result.ret == pytest.ExitCode.USAGE_ERROR


def test_a_project_without_published_numbers_is_left_alone(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("def test_nothing(): pass")
    result = pytester.runpytest_subprocess()
    result.assert_outcomes(passed=1)
    assert "scanproof" not in result.stdout.str().partition("collected")[2].replace(pytester.path.name, "")
    assert not (pytester.path / ".scanproof").exists()
