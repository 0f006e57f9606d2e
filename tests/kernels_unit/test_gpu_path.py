"""The kernel tests' way on a GPU, gone through without one: see tests/support/as_if_on_gpu.py."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def run_tests(*chosen: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Kernel tests as on a GPU."""
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-n0",
        "-p",
        "no:cacheprovider",
        "-p",
        "tests.support.as_if_on_gpu",
    ]
    return subprocess.run(
        [*command, *chosen], cwd=ROOT, env=os.environ | variables, capture_output=True, text=True, check=False
    )


def test_every_invariant_reaches_its_operations_on_a_gpu() -> None:
    """The invariants of steps ended with a KeyError on the first GPU: a row's sizes are not those of the other one."""
    done = run_tests("tests/kernels/test_invariants.py", "-m", "gpu", "-k", "float32")
    last = done.stdout.strip().splitlines()[-1]
    assert done.returncode == 0, done.stdout
    assert "passed" in last, done.stdout
    assert "skipped" not in last, done.stdout


@pytest.mark.parametrize(
    ("memory", "strict", "says"),
    [
        ("0 80", False, None),
        ("0 80", True, "(--scanproof-strict: not a skip)"),
        # Each case may be skipped; that none was left proves nothing.
        ("0 0", True, "not green under --scanproof-strict: no test passed: nothing was proved"),
    ],
    ids=["taken-not-strict", "taken-strict", "too-small-strict"],
)
def test_memory_that_something_else_holds_is_no_reason_to_skip_under_strict(
    memory: str, strict: bool, says: str | None
) -> None:
    chosen = ["tests/kernels/test_numerics.py", "-m", "gpu", "-k", "causal_conv1d_fn and float32 and not alone"]
    done = run_tests(*chosen, *["--scanproof-strict"] * strict, FREE_AND_TOTAL=memory)
    assert done.returncode == (0 if says is None else 1), done.stdout
    assert (says or "") in done.stdout
    assert ("failed" in done.stdout) is (memory == "0 80" and strict)
    assert f"0 of {memory.split()[1]} GiB are free" in done.stdout
    assert not re.search(r"\d passed", done.stdout)
