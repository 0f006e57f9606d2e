"""NumPy is left as it was by what makes Triton's interpreter compute as a GPU does, and kernels overflow silently."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from scanproof.plugin.kernel_fixtures import Missing

KERNEL = """
import triton
import triton.language as tl

@triton.jit
def exponential(x, out, N: tl.constexpr):
    at = tl.arange(0, N)
    value = tl.exp(tl.load(x + at))
    tl.store(out + at, value)
    tl.store(out + N + at, value - value)
"""
SCRIPT = """
import warnings

import numpy as np

before = np.geterr()

from scanproof.kernels import interpreter

interpreter.prepare_triton()
assert np.geterr() == before, np.geterr()

import torch
from kernels_here import exponential

out = torch.zeros(8)
with warnings.catch_warnings():
    warnings.simplefilter("error")
    exponential[(1,)](torch.full((4,), 1000.0), out, N=4)
assert out[:4].isinf().all(), out
assert out[4:].isnan().all(), out
assert np.geterr() == before, np.geterr()
with warnings.catch_warnings(record=True) as outside:
    warnings.simplefilter("always")
    np.exp(np.full(1, 1000.0, np.float32))
print(*[warning.message for warning in outside])
"""


@pytest.mark.interpreted
def test_an_overflow_warns_outside_of_a_kernel_only(
    scanproof_interpreter: str | None, scanproof_missing: Missing, tmp_path: Path
) -> None:
    """In a process of its own: in this one Triton is prepared already."""
    if scanproof_interpreter is not None:
        scanproof_missing(scanproof_interpreter)
    (tmp_path / "kernels_here.py").write_text(KERNEL)
    (tmp_path / "script.py").write_text(SCRIPT)
    result = subprocess.run([sys.executable, "script.py"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert result.stdout == "overflow encountered in exp\n"
