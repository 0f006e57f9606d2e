"""Only the wrong results or the error that are known of an operation are expected; whatever else goes wrong is red."""

from __future__ import annotations

import pytest

pytestmark = pytest.mark.usefixtures("forked_passes")

KNOWN = "invalid gradient at index 6 - got [] but expected shape compatible with [16]"
TESTS = f"""
import pytest
from scanproof.kernels.criterion import KernelError, ResultComparison
from scanproof.kernels.known import KnownDefect
from scanproof.plugin.kernel_parameters import fail_as_wrong, known_error, known_miss

TEXT = {KNOWN!r}
KNOWN = f"RuntimeError: {{TEXT}}"
DEFECT = KnownDefect("as found", rms={{"state": 1.4}}, times={{"out": 6}})
MARK = known_miss(DEFECT.because)

def error(by):
    return KernelError(rms=0.01 * by, worst=by, index=(0,), expected=1.0, got=1.0)

def wrong(**times):
    return [ResultComparison(name, error(by), error(0.1), 0.01, 1) for name, by in times.items()]

@pytest.fixture(autouse=True)
def launched(request):
    if "fallback" not in request.node.name:
        request.node.user_properties.append(("launched", [{{"name": "a kernel"}}]))

def fail(request, known=DEFECT, **times):
    fail_as_wrong(request.node, "are wrong", wrong(**times), known)

@MARK
def test_wrong(request): fail(request, out=6, state=139, z=1)
@MARK
def test_wrong_in_part(request): fail(request, out=3)
@MARK
def test_digits_further_off(request): fail(request, out=7, state=139)
@MARK
def test_values_further_off(request): fail(request, out=6, state=141)
@MARK
def test_no_number(request): fail(request, state=float("nan"))
@MARK
def test_another_result(request): fail(request, out=6, z=2)
@MARK
def test_nothing_known(request): fail(request, known=None, out=6)
def test_wrong_and_not_marked(request): fail(request, out=6)
@MARK
def test_right(): pass
@MARK
def test_missing(scanproof_missing): scanproof_missing("needs mamba_ssm, which is not installed here")
@MARK
def test_fallback(): pytest.fail("fallback: kernels that the numbers need did not run", pytrace=False)
@MARK
def test_raises(request):
    with known_error(request.node, KNOWN): raise RuntimeError("Function MambaInnerFnBackward returned an " + TEXT)
@MARK
def test_raises_else(request):
    with known_error(request.node, KNOWN): raise RuntimeError("invalid gradient at index 7")
@MARK
def test_raises_out_of_memory(request):
    with known_error(request.node, KNOWN): raise MemoryError(TEXT)
@MARK
def test_raises_of_another_type(request):
    with known_error(request.node, KNOWN): raise NotImplementedError(TEXT)
@MARK
def test_raises_as_its_type_says(request):
    with known_error(request.node, "UnboundLocalError: local variable"): raise UnboundLocalError("local variable 'x'")
@MARK
def test_raises_on_a_broken_gpu(request):
    import torch
    with known_error(request.node, "RuntimeError: an illegal"): raise torch.AcceleratorError("CUDA: an illegal access")
@MARK
def test_raises_in_a_fallback(request):
    with known_error(request.node, KNOWN): raise RuntimeError(TEXT)
@MARK
def test_raises_but_none_is_known(request):
    with known_error(request.node, None): raise RuntimeError(TEXT)
"""


def test_what_is_known_is_expected_and_nothing_else(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(TESTS)
    result = pytester.runpytest_subprocess("-rA", "--scanproof-strict")
    result.assert_outcomes(xfailed=4, failed=15)
    result.stdout.fnmatch_lines_random([
        "XFAIL*test_wrong - as found*", "XFAIL*test_wrong_in_part - as found*", "XFAIL*test_raises - as found*",
        "XFAIL*test_raises_as_its_type_says - as found*", "FAILED*test_raises_of_another_type*",
        "this is not what is known (as found):",
        "  out: its error is 7 times what is allowed, and known is at most 6",
        "  state: its error is 1.41 of the reference's rms, and known is at most 1.4",
        "  state: its error is nan of the reference's rms, and known is at most 1.4",
        "  z is not known to be wrong; known are out, state",
    ])  # fmt: skip


WRAPPING = """
import pytest
from dataclasses import replace
from scanproof.kernels import cases
from scanproof.kernels.compare import Overwritten, WrongResult
from scanproof.kernels.known import KnownDefect
from scanproof.plugin.kernel_parameters import fail_as_wrong, fail_where_not_compared, known_miss

WRAPS = KnownDefect("offsets wrap", {}, {}, wraps=True)
ROW = replace(next(row for row in cases.load() if row.alone), known=WRAPS)
BOUNDED = replace(ROW, known=KnownDefect("as found", {"out": 1.0}, {}))
pytestmark = [pytest.mark.gpu, known_miss("offsets wrap")]

def illegal_access():
    import torch
    raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered\\nSearch for ...")

def out_of_memory():
    import torch
    raise torch.OutOfMemoryError("CUDA out of memory")

def no_driver():
    import torch
    raise torch.AcceleratorError("CUDA error: CUDA driver version is insufficient for CUDA runtime version")

def overwrites(): raise Overwritten("overwrote its arguments x")
def returns_another_shape(): raise WrongResult("out has shape")
def refuses(): raise RuntimeError("x must be contiguous")

ALL = [illegal_access, overwrites, out_of_memory, no_driver, returns_another_shape, refuses]

@pytest.mark.own_process
@pytest.mark.parametrize("how", ALL)
def test_fallback(request, how):
    with fail_where_not_compared(request.node, ROW):
        how()

@pytest.mark.own_process
@pytest.mark.parametrize("case", [ROW, BOUNDED], ids=["wraps", "bounded"])
@pytest.mark.parametrize("how", ALL)
def test_row(request, case, how):
    request.node.user_properties.append(("launched", [{"name": "a kernel"}]))
    with fail_where_not_compared(request.node, case):
        how()

@pytest.mark.own_process
def test_right(): pass
"""


def test_where_offsets_wrap_an_overwritten_argument_and_an_illegal_access_are_known_and_nothing_else(
    pytester: pytest.Pytester, forked_passes: None
) -> None:
    pytester.makepyfile(test_rows=WRAPPING)
    result = pytester.runpytest_subprocess("-rA", "--scanproof-strict")
    result.assert_outcomes(xfailed=2, failed=17)
    result.stdout.fnmatch_lines_random([
        "XFAIL*illegal_access-wraps* - offsets wrap*", "XFAIL*overwrites-wraps* - offsets wrap*",
        "FAILED*test_right*",
        "selective_scan_fn-*: CUDA error: an illegal memory access was encountered, seen in illegal_access "
        "(test_rows.py:*); with CUDA_LAUNCH_BLOCKING=1 it is seen at the kernel that caused it",
    ])  # fmt: skip
    assert "Search for" not in result.stdout.str()


def test_in_the_process_of_the_session_an_illegal_access_is_never_a_known_miss(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(test_rows=WRAPPING.replace("@pytest.mark.own_process\n", ""))
    result = pytester.runpytest_subprocess("-rA", "-k", "illegal_access and wraps or overwrites and wraps")
    result.assert_outcomes(failed=1, errors=1, deselected=17)


PLANTED = """
import pytest
from scanproof.kernels.latency import timed_calls
from scanproof.plugin.kernel_fixtures import Kernels

FACTORS = {
    "as_known": (1 + 5e-6, -0.21), "right": (1, 1), "state_x_1000": (1, 1000), "out_x_1000": (1000, -0.21),
    "no_number": (1, float("nan")),
}

@pytest.fixture
def scanproof_kernels(planted):
    def call(op):
        form = timed_calls.pytorch_form(op)
        return lambda **given: tuple(factor * part for factor, part in zip(FACTORS[planted], form(**given)))
    return Kernels("gpu", "cpu", call)

@pytest.mark.parametrize("planted", FACTORS)
def test_planted(planted, scanproof_case, scanproof_check_kernel):
    scanproof_check_kernel(scanproof_case)
"""


def test_results_that_are_a_thousand_times_too_large_are_red_in_rows_with_a_known_defect(
    pytester: pytest.Pytester,
) -> None:
    """As if on a GPU, with a PyTorch form whose results are spoiled."""
    pytester.makepyfile(test_planted=PLANTED)
    given = ("-p", "tests.support.as_if_on_gpu", "-m", "gpu", "-k", "constant_state", "-rA", "--scanproof-strict")
    result = pytester.runpytest_subprocess(*given)
    row, other = "selective_scan_fn-complex_constant_state-float32", "selective_scan_fn-constant_state-float32"
    result.assert_outcomes(xfailed=1, failed=9)
    result.stdout.fnmatch_lines_random([
        f"XFAIL*{row}-gpu-as_known*", "*XPASS(strict)] where B is constant*", f"FAILED*{row}-gpu-state_x_1000*",
        f"FAILED*{row}-gpu-out_x_1000*", f"FAILED*{row}-gpu-no_number*", f"FAILED*{other}-gpu-out_x_1000*",
        "  last_state: its error is 999 of the reference's rms, and known is at most 2.5",
        "  last_state: its error is 999 of the reference's rms, and known is at most 2.8",
        "  last_state: its error is inf of the reference's rms, and known is at most 2.5",
        "  out: its error is * times what is allowed, and known is at most 3",
        "  out is not known to be wrong; known are last_state",
    ])  # fmt: skip
