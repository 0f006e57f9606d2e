"""What pytest collects: every published number, by a name that reads, with nothing heavy imported."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from scanproof.numbers.expected.reader import load
from scanproof.numbers.values import PublishedValue
from tests.support.small_project import Project

ROOT = Path(__file__).parents[2]
SUITE = "tests/published"


@pytest.fixture(scope="module")
def numbers() -> tuple[PublishedValue, ...]:
    return load(ROOT / "expected").numbers


def collect(*arguments: str) -> list[str]:
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", SUITE, *arguments]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return [line for line in result.stdout.splitlines() if "::" in line]


def test_marker_gpu_selects_the_385_published_numbers(numbers: tuple[PublishedValue, ...]) -> None:
    ids = collect("-m", "gpu")
    published = [value.id for value in numbers if value.job.suite == "gpu" and not value.unrecorded]
    assert ids == [f"tests/published/test_published.py::test_published[{name}]" for name in published]
    assert sum(value.origin != "recorded" for value in numbers if value.job.suite == "gpu") == 385
    assert "tests/published/test_published.py::test_published[mamba-130m-lambada_openai-acc-paper]" in ids


def test_marker_embedded_selects_the_stand_ins_only() -> None:
    ids = collect("-m", "embedded")
    assert len(ids) >= 4 * 12
    assert not set(ids) & set(collect("-m", "gpu"))


def test_keyword_selects_by_model_task_and_origin(numbers: tuple[PublishedValue, ...]) -> None:
    ids = collect("-k", "mamba-2.8b and hellaswag and paper")
    named = [value.id for value in numbers if all(word in value.id for word in ("mamba-2.8b", "hellaswag", "paper"))]
    assert [name.partition("[")[2].removesuffix("]") for name in ids] == named
    assert "mamba-2.8b-hellaswag-acc_norm-paper" in named


def test_collection_imports_neither_torch_nor_lm_eval() -> None:
    """Of the whole suite, in a process of its own: who asks for the tests' names does not wait for torch."""
    program = (
        "import sys, pytest;"
        "code = pytest.main(['--collect-only', '-q']);"
        "heavy = {'torch', 'lm_eval', 'transformers', 'datasets'} & set(sys.modules);"
        "sys.exit(f'imported {heavy}' if heavy else int(code))"
    )
    # Of this process: pytest-benchmark would warn that it is disabled.
    variables = {name: text for name, text in os.environ.items() if not name.startswith("PYTEST_XDIST")}
    result = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, env=variables, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    files = {line.partition("::")[0] for line in result.stdout.splitlines() if "::" in line}
    assert files == {path.relative_to(ROOT).as_posix() for path in (ROOT / "tests").rglob("test_*.py")}


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


IMPOSTORS = """
import pytest

@pytest.mark.parametrize("name", [{ids}])
def test_own(name): pass

@pytest.mark.parametrize("name", [{ids}])
def test_own_skip(name): pytest.skip("not here")

@pytest.mark.xfail
@pytest.mark.parametrize("name", [{ids}])
def test_own_failure(name): assert False
"""


@pytest.mark.parametrize("workers", [(), ("-n", "1")], ids=["one process", "xdist"])
@pytest.mark.parametrize("numbers", [0, 3])
def test_a_test_whose_id_looks_like_that_of_a_number_is_none(
    project: Project, workers: tuple[str, ...], numbers: int
) -> None:
    """What makes a number is the argument that the suite gave to its test."""
    project.document(models=("one",))
    ids = ("one-arc_easy-acc-author", "one-arc_easy-acc_norm-author", "one-lambada_openai-perplexity-author")
    (project.root / "test_own.py").write_text(IMPOSTORS.format(ids=", ".join(map(repr, ids))))
    files = ("test_own.py", "test_published.py") if numbers else ("test_own.py",)
    result = project.run("--scanproof-strict", *workers, *files)
    assert result.ret == pytest.ExitCode.OK, result.stdout.str()
    result.assert_outcomes(passed=3 + numbers, skipped=3, xfailed=3)
    if not numbers:
        assert not list(project.root.glob("**/run.json"))
        return
    run: Any = project.latest_run()
    assert sorted(run["selected_ids"]) == sorted(record["id"] for record in run["records"]) == sorted(ids)
    assert {record["nodeid"].partition("::")[0] for record in run["records"]} == {"test_published.py"}
    assert {record["outcome"] for record in run["records"]} == {"REPRODUCED"}
