"""Every operation, dtype and case against float64: forward, and backward where the case says so.

Copy this file into a kernel's own repository: what it uses comes with scanproof's pytest plugin.
"""

import pytest


def test_error_is_at_most_twice_that_of_the_pytorch_form(scanproof_case, scanproof_check_kernel):
    """The installed operation launches its kernels, and its error is at most twice that of the PyTorch form."""
    scanproof_check_kernel(scanproof_case)


@pytest.mark.interpreted
def test_what_the_interpreter_cannot_run_is_said(scanproof_not_interpreted, scanproof_cannot_run):
    """One skip, with its reason, for every operation that Triton's interpreter cannot run."""
    scanproof_cannot_run(scanproof_not_interpreted)
