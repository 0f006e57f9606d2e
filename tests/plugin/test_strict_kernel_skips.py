"""--scanproof-strict: no mark of a plugin or a conftest.py keeps a kernel test from failing."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from scanproof import record
from scanproof.history import new_baseline, run_failures
from tests.support.small_project import Project

TESTS = """
import pytest

@pytest.mark.parametrize("scanproof_place", ["interpreter"])
def test_kernel(scanproof_place): assert {passes}

def test_own(): pass
"""
MARKING = """
import pytest

def pytest_collection_modifyitems(items):
    for item in items:
        if "{which}" in item.name:
            item.add_marker(pytest.mark.{mark})
"""
REWRITING = """
import pytest

@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_makereport(item):
    report = yield
    if report.failed:
        report.outcome, report.longrepr = "skipped", ("test.py", 1, "Skipped: as I like it")
    return report
"""
KERNELS = Path(__file__).parents[1] / "kernels"
FAILED = "not green under --scanproof-strict: 1 kernel tests were skipped or expected to fail by others: "


@pytest.mark.parametrize("workers", [(), ("-n", "1")], ids=["one process", "xdist"])
@pytest.mark.parametrize(
    ("conftest", "reason"),
    [
        (MARKING.format(which="kernel", mark="skip(reason='too slow')"), "too slow"),
        (MARKING.format(which="kernel", mark="xfail(reason='flaky')"), "an expected failure: flaky"),
        (REWRITING, "as I like it"),
    ],
    ids=["marked to skip", "marked to fail", "a failure made a skip"],
)
def test_a_kernel_test_that_others_skip_fails_a_strict_session(
    pytester: pytest.Pytester, conftest: str, reason: str, workers: tuple[str, ...]
) -> None:
    pytester.makepyfile(test_it=TESTS.format(passes=False))
    pytester.makeconftest(conftest)
    result = pytester.runpytest_subprocess("--scanproof-strict", *workers)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines([f"{FAILED}test_it.py::test_kernel*interpreter*: {reason}; remove the mark*"])
    assert pytester.runpytest_subprocess(*workers).ret == pytest.ExitCode.OK


@pytest.mark.parametrize("option", ["--setup-plan", "--setup-only"])
def test_a_kernel_test_that_is_only_set_up_fails_a_strict_session(pytester: pytest.Pytester, option: str) -> None:
    pytester.makepyfile(test_it=TESTS.format(passes=False))
    result = pytester.runpytest_subprocess("--scanproof-strict", option)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["not green under --scanproof-strict: 2 selected tests did not run*test_kernel*"])


@pytest.mark.parametrize("mark", ["skip", "xfail"])
def test_numbers_beside_it_are_in_a_run_that_is_not_good(project: Project, mark: str) -> None:
    """Page, history, triage and baselines ask the run, and not the exit code."""
    project.document(models=("one",))
    project.pytester.makepyfile(test_it=TESTS.format(passes=False))
    conftest = project.root / "conftest.py"
    conftest.write_text(conftest.read_text() + MARKING.format(which="kernel", mark=mark))
    assert project.run("--scanproof-strict").ret == pytest.ExitCode.TESTS_FAILED
    run = record.read_run(record.find_run(project.root / ".scanproof" / "runs", "latest"))
    (said,) = run_failures.list_failures(run)
    assert said.startswith("1 tests failed without a record that says so: test_it.py::test_kernel")
    assert f"it failed: {said}" in new_baseline.why_not_good(run)


def test_other_tests_may_be_skipped_by_a_mark(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(test_it=TESTS.format(passes=True))
    pytester.makeconftest(MARKING.format(which="own", mark="skip"))
    result = pytester.runpytest_subprocess("--scanproof-strict")
    result.assert_outcomes(passed=1, skipped=1)
    assert result.ret == pytest.ExitCode.OK


@pytest.mark.usefixtures("forked_passes")
@pytest.mark.parametrize("workers", [(), ("-n", "1")], ids=["one process", "xdist"])
def test_what_scanproof_allows_fails_no_strict_session(pytester: pytest.Pytester, workers: tuple[str, ...]) -> None:
    pytester.makepyfile(
        """
        import pytest
        from scanproof.plugin.kernel_parameters import known_error, known_miss

        def test_never(scanproof_cannot_run): scanproof_cannot_run("it is a CUDA extension")

        @known_miss("as found")
        @pytest.mark.parametrize("scanproof_place", ["gpu"])
        def test_known(scanproof_place, request):
            request.node.user_properties.append(("launched", [{"name": "a kernel"}]))
            with known_error(request.node, "RuntimeError: as it does"): raise RuntimeError("as it does")

        @pytest.mark.own_process
        def test_never_alone(scanproof_cannot_run): scanproof_cannot_run("80 GiB are needed")
        """
    )
    result = pytester.runpytest_subprocess("--scanproof-strict", "-rs", *workers)
    result.assert_outcomes(skipped=2, xfailed=1)
    assert result.ret == pytest.ExitCode.OK
    result.stdout.fnmatch_lines_random(["SKIPPED*it is a CUDA extension", "SKIPPED*80 GiB are needed"])


def test_a_skip_of_the_tests_own_has_to_go_through_a_fixture(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        test_it="import pytest\n"
        "@pytest.mark.parametrize('scanproof_place', ['gpu'])\n"
        "def test_kernel(scanproof_place): pytest.skip('no machine')\n"
    )
    result = pytester.runpytest_subprocess("--scanproof-strict")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines([f"{FAILED}*test_kernel*: no machine; *scanproof_missing or scanproof_cannot_run"])


@pytest.mark.usefixtures("sessions_with_torch")
@pytest.mark.parametrize(
    ("name", "selected"),
    [
        ("test_numerics.py", ("-p", "tests.support.as_if_on_gpu", "-m", "gpu", "-k", "scan_fn-tiny_steps-float16")),
        ("test_latency.py", ("-m", "latency and not gpu", "-k", "rms_norm_fn-small-float32-forward")),
    ],
)
def test_a_case_of_the_suite_that_a_conftest_marks_to_skip_fails_a_strict_session(
    pytester: pytest.Pytester, name: str, selected: tuple[str, ...]
) -> None:
    shutil.copy(KERNELS / name, pytester.path)
    pytester.makeconftest(MARKING.format(which="float", mark="skip"))
    result = pytester.runpytest_subprocess("--scanproof-strict", *selected)
    assert result.parseoutcomes()["skipped"] == 1
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines([f"{FAILED}{name}::*: unconditional skip; *"])


@pytest.mark.usefixtures("sessions_with_torch")
def test_a_gpu_that_is_too_small_for_a_case_fails_no_strict_session(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FREE_AND_TOTAL", "1 1")
    shutil.copy(KERNELS / "test_numerics.py", pytester.path)
    pytester.makepyfile(test_own="import pytest\n@pytest.mark.gpu\ndef test_own(): pass\n")
    given = ("-p", "tests.support.as_if_on_gpu", "-m", "gpu", "-k", "mamba_inner_fn-past_2_31 or test_own")
    result = pytester.runpytest_subprocess("--scanproof-strict", "-rs", *given)
    result.assert_outcomes(passed=1, skipped=1, deselected=result.parseoutcomes()["deselected"])
    assert result.ret == pytest.ExitCode.OK
    result.stdout.fnmatch_lines(["SKIPPED*mamba_inner_fn-past_2_31-mamba-7b-bfloat16 needs about * GiB of GPU memory*"])
