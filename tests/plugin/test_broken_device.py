"""A test that breaks the GPU for its process ends that process's later GPU tests with one reason, and no others."""

from __future__ import annotations

import pytest

from tests.support.small_project import Project

pytestmark = pytest.mark.usefixtures("forked_passes")

KERNELS = """
import pytest

class TestKernels:
    @pytest.mark.gpu
    def test_before(self): pass

    @pytest.mark.gpu
    MARK
    def test_breaks(self):
        import torch
        PATCH
        try:
            raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered\\nSearch for ...")
        except RuntimeError as error:
            RAISE

    @pytest.mark.gpu
    def test_after(self, request):
        pass

    @pytest.mark.gpu
    @pytest.mark.xfail(strict=True)
    def test_known(self): assert False

    @pytest.mark.gpu
    def test_skips(self): pytest.skip("no memory")

    @pytest.mark.gpu
    @pytest.mark.own_process
    def test_elsewhere(self): pass

    def test_on_the_cpu(self): pass
"""
REASON = "not measured: test_*::TestKernels::test_breaks broke the GPU for this process: CUDA error: an illegal memory*"


def kernels(pytester: pytest.Pytester, mark: str = "", patch: str = "", how: str = "raise") -> None:
    pytester.makepyfile(KERNELS.replace("MARK", mark).replace("PATCH", patch).replace("RAISE", how))


@pytest.mark.parametrize("strict", [False, True])
def test_later_gpu_tests_are_errors_with_the_one_reason(pytester: pytest.Pytester, strict: bool) -> None:
    kernels(pytester)
    result = pytester.runpytest_subprocess("-rA", *(["--scanproof-strict"] if strict else []))
    result.assert_outcomes(passed=3, failed=1, errors=3)
    lines = [line for line in result.outlines if line.startswith("not measured")]
    assert len(lines) == 3
    result.stdout.fnmatch_lines([REASON])
    result.stdout.fnmatch_lines_random(["PASSED*test_elsewhere", "PASSED*test_on_the_cpu", "PASSED*test_before"])


@pytest.mark.parametrize("mark", ["", "@pytest.mark.xfail", "@pytest.mark.xfail(raises=RuntimeError)"])
@pytest.mark.parametrize("how", ["raise ValueError('wrong') from error", "pytest.skip('no such thing here')"])
def test_no_mark_and_no_skip_hides_a_broken_device(pytester: pytest.Pytester, mark: str, how: str) -> None:
    kernels(pytester, mark, how=how)
    result = pytester.runpytest_subprocess("-k", "breaks or after")
    result.assert_outcomes(failed=1, errors=1, deselected=5)
    result.stdout.fnmatch_lines([REASON])


def test_an_error_after_which_the_gpu_still_answers_is_only_its_tests(pytester: pytest.Pytester) -> None:
    kernels(pytester, patch="torch.cuda.synchronize = lambda: None")
    result = pytester.runpytest_subprocess()
    result.assert_outcomes(passed=4, failed=1, xfailed=1, skipped=1)


def test_an_error_that_nobody_waited_for_is_of_the_test_that_launched_it(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("""
import pytest
import torch

def fails():
    raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")

@pytest.mark.gpu
@pytest.mark.parametrize("n", range(3))
def test_launches(n):
    torch.cuda.is_initialized = lambda: True
    torch.cuda.synchronize = (lambda: None) if n == 0 else fails
""")
    result = pytester.runpytest_subprocess("-rA")
    result.assert_outcomes(passed=1, failed=1, errors=1)
    result.stdout.fnmatch_lines(["not measured: *test_launches?1? broke the GPU*"])


def test_published_numbers_go_on_in_processes_of_their_own(project: Project) -> None:
    project.document(models=("one",))
    kernels(project.pytester)
    result = project.run("-rA", "--import-mode=importlib", "-p", "no:randomly")
    result.assert_outcomes(passed=6, failed=1, errors=3)


@pytest.mark.parametrize("mark", ["own_process", "own_process('rows')"])
def test_in_a_process_of_its_own_it_ends_the_tests_of_that_process(pytester: pytest.Pytester, mark: str) -> None:
    pytester.makepyfile(f"""
import pytest

@pytest.mark.gpu
@pytest.mark.{mark}
@pytest.mark.parametrize("n", range(3))
def test_row(n):
    import torch
    if n == 1:
        raise torch.AcceleratorError("CUDA error: misaligned address")

@pytest.mark.gpu
def test_here(): pass
""")
    result = pytester.runpytest_subprocess()
    alone = mark == "own_process"
    result.assert_outcomes(passed=3 if alone else 2, failed=1, errors=0 if alone else 1)
    result.stdout.no_fnmatch_line("*test_here*")


def test_tests_with_a_process_for_themselves_come_last(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("""
import pytest

@pytest.mark.own_process
def test_alone(): pass

@pytest.mark.own_process("pass 1")
def test_together(): pass

def test_here(): pass
""")
    result = pytester.runpytest_subprocess("-v")
    result.assert_outcomes(passed=3)
    result.stdout.fnmatch_lines(["*::test_together PASSED*", "*::test_here PASSED*", "*::test_alone PASSED*"])
