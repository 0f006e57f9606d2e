"""Only the wrong result or the error that is known of an operation is expected; whatever else goes wrong is red."""

from __future__ import annotations

import pytest

KNOWN = "invalid gradient at index 6 - got [] but expected shape compatible with [16]"
TESTS = f"""
import pytest
from scanproof.plugin.kernel_parameters import fail_as_wrong, known_error, known_miss

KNOWN = {KNOWN!r}
MARK = known_miss("as found")

@MARK
def test_wrong(request): fail_as_wrong(request.node, "rms 3 times")
def test_wrong_and_unknown(request): fail_as_wrong(request.node, "rms 3 times")
@MARK
def test_right(): pass
@MARK
def test_missing(scanproof_missing): scanproof_missing("needs mamba_ssm, which is not installed here")
@MARK
def test_fallback(): pytest.fail("fallback: kernels that the numbers need did not run", pytrace=False)
@MARK
def test_raises():
    with known_error(KNOWN): raise RuntimeError("Function MambaInnerFnBackward returned an " + KNOWN)
@MARK
def test_raises_else():
    with known_error(KNOWN): raise RuntimeError("invalid gradient at index 7")
@MARK
def test_raises_out_of_memory():
    with known_error(KNOWN): raise MemoryError(KNOWN)
@MARK
def test_raises_on_a_broken_gpu():
    import torch
    with known_error("an illegal"): raise torch.AcceleratorError("CUDA error: an illegal memory access")
@MARK
def test_raises_but_none_is_known():
    with known_error(None): raise RuntimeError(KNOWN)
"""


def test_what_is_known_is_expected_and_nothing_else(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(TESTS)
    result = pytester.runpytest_subprocess("-rA", "--scanproof-strict")
    result.assert_outcomes(xfailed=2, failed=8)
    result.stdout.fnmatch_lines_random(["XFAIL*test_wrong*as found*", "XFAIL*test_raises*as found*"])
