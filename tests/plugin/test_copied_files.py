"""Projects of other people, with nothing but the files that they copy from here."""

from __future__ import annotations

import ast
import os
import shutil
from pathlib import Path

import pytest

from tests.support.small_project import Project

ROOT = Path(__file__).parents[2]
COPIED = ("published/test_published.py", "kernels/test_numerics.py", "kernels/test_latency.py")
NUMBER = "mamba1-tiny-piqa-acc-embedded"
CASE = "selective_state_update-tied-float32-interpreter"
INSTALLED = f"{CASE} and not fla"
"""The same case of the installed operation alone."""
FALLBACK = """
import pytest

@pytest.fixture
def scanproof_kernels(scanproof_place):
    from scanproof.kernels.latency import timed_calls
    from scanproof.plugin.kernel_fixtures import Kernels

    return Kernels(scanproof_place, "cpu", timed_calls.pytorch_form)
"""


@pytest.fixture
def own_project(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    """A folder with an ini file only."""
    for name in [name for name in os.environ if name.startswith("SCANPROOF_")] + ["TRITON_INTERPRET"]:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("COLUMNS", "200")
    pytester.makeini("[pytest]\nfilterwarnings = error\naddopts = --strict-markers -p no:cacheprovider\n")
    return pytester


def copy(pytester: pytest.Pytester, name: str) -> None:
    shutil.copy(ROOT / "tests" / name, pytester.path)


@pytest.mark.parametrize("name", COPIED)
def test_a_file_that_users_copy_imports_nothing_that_may_move(name: str) -> None:
    tree = ast.parse((ROOT / "tests" / name).read_text())
    imports = [node for node in ast.walk(tree) if isinstance(node, (ast.Import, ast.ImportFrom))]
    assert {ast.unparse(node) for node in imports} <= {"import pytest"}


def test_a_number_of_a_stand_in_passes_and_a_planted_error_of_print_fails(own_project: pytest.Pytester) -> None:
    copy(own_project, "published/test_published.py")
    shutil.copytree(ROOT / "expected", own_project.path / "expected")
    arguments = ("-m", "embedded", "-k", "mamba1-tiny-piqa-acc")
    passed = own_project.runpytest_subprocess(*arguments).parseoutcomes()
    assert (passed["passed"], passed.keys() - {"deselected"}) == (2, {"passed"})
    path = own_project.path / "expected" / "embedded" / "mamba1-tiny.yaml"
    printed = 'task: piqa, metric: acc, line: 27, origin: embedded, printed: "0.7900"'
    assert printed in path.read_text()
    path.write_text(path.read_text().replace(printed, printed.replace("0.7900", "0.6100")))
    result = own_project.runpytest_subprocess(*arguments)
    assert (result.parseoutcomes()["passed"], result.parseoutcomes()["failed"]) == (1, 1)
    result.stdout.fnmatch_lines(
        [
            "0.79000 measured, 0.6100 expected, * allowed: too high*",
            f"FAILED test_published.py::test_published?{NUMBER}?*",
        ]
    )


def test_a_check_of_another_number_than_the_tests_own_fails(project: Project) -> None:
    project.document(models=("one",))
    (project.root / "test_published.py").write_text(
        "from dataclasses import replace\n"
        "def test_published(scanproof_value, scanproof_check):\n"
        "    scanproof_check(replace(scanproof_value, model='two'))\n"
    )
    result = project.run()
    result.assert_outcomes(failed=3)
    result.stdout.fnmatch_lines(["this test is for one-arc_easy-acc-author: * was not evaluated for it"])


@pytest.mark.usefixtures("sessions_with_torch")
def test_a_kernel_case_is_a_test_of_a_project_and_says_what_it_lacks(own_project: pytest.Pytester) -> None:
    copy(own_project, "kernels/test_numerics.py")
    result = own_project.runpytest_subprocess("-m", "interpreted", "-k", INSTALLED, "-rs")
    assert result.parseoutcomes()["skipped"] == 1
    result.stdout.fnmatch_lines(["SKIPPED * needs a process of its own with TRITON_INTERPRET=1: tox -e interpreted"])
    strict = own_project.runpytest_subprocess("-m", "interpreted", "-k", INSTALLED, "--scanproof-strict")
    assert strict.parseoutcomes()["errors"] == 1
    strict.stdout.fnmatch_lines(["*needs a process of its own*(--scanproof-strict: not a skip)"])


@pytest.mark.usefixtures("sessions_with_torch")
def test_a_fallback_with_right_numbers_is_no_pass(own_project: pytest.Pytester) -> None:
    copy(own_project, "kernels/test_numerics.py")
    own_project.makeconftest(FALLBACK)
    result = own_project.runpytest_subprocess("-m", "interpreted", "-k", INSTALLED)
    assert result.parseoutcomes()["failed"] == 1
    result.stdout.fnmatch_lines(
        ["selective_state_update-tied-float32: *", "*_selective_scan_update_kernel of mamba-ssm: not launched*"]
    )


@pytest.mark.usefixtures("sessions_with_torch")
def test_what_the_interpreter_cannot_run_is_a_skip_with_its_reason(own_project: pytest.Pytester) -> None:
    copy(own_project, "kernels/test_numerics.py")
    result = own_project.runpytest_subprocess("-k", "test_what_the_interpreter and mamba_inner_fn", "-rs")
    assert result.parseoutcomes()["skipped"] == 1
    result.stdout.fnmatch_lines(["SKIPPED * mamba_inner_fn: it is a CUDA extension; *"])


def test_a_test_that_says_no_place_is_told_how(own_project: pytest.Pytester) -> None:
    own_project.makepyfile("def test_kernel(scanproof_kernels): pass")
    result = own_project.runpytest_subprocess()
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(
        ["a kernel test says where it runs: ask for scanproof_case, or write *scanproof_place*"]
    )


@pytest.mark.usefixtures("new_interpreters")
def test_what_no_test_asks_for_is_not_imported(own_project: pytest.Pytester) -> None:
    own_project.makepyfile(
        "import sys\n"
        "def test_light():\n"
        "    assert not {'torch', 'numpy', 'yaml', 'pydantic', 'scipy', 'scanproof.kernels.cases'} & set(sys.modules)\n"
    )
    own_project.runpytest_subprocess().assert_outcomes(passed=1)
