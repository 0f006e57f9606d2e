"""How many tests a selection of the suite has is said in the documentation as collecting them counts it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
KERNELS = (ROOT / "docs" / "kernels.md").read_text(encoding="utf-8")
ROWS = {
    marker: int(tests.replace(",", "")) for marker, tests in re.findall(r'^\| `-m "(.+?)"` \| ([\d,]+) ', KERNELS, re.M)
}
README = (ROOT / "README.md").read_text(encoding="utf-8")


def count_tests(folder: str, marker: str) -> int:
    """How many tests pytest selects there, in no worker of pytest-xdist, also when this test is in one."""
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider", "-m", marker, folder]
    variables = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_XDIST")}
    done = subprocess.run(command, cwd=ROOT, env=variables, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (selected,) = re.findall(r"^(\d+)(?:/\d+)? tests collected", done.stdout, re.M)
    return int(selected)


def test_the_table_of_the_kernels_has_rows() -> None:
    assert set(ROWS) == {"gpu and quick", "gpu and latency", "gpu and not latency"}


@pytest.mark.parametrize("marker", ROWS)
def test_a_selection_of_kernel_tests(marker: str) -> None:
    assert count_tests("tests/kernels", marker) == ROWS[marker]


def test_the_latencies_are_as_many_as_the_text_says() -> None:
    assert re.findall(r"times (\d+) calls on a GPU", KERNELS) == [str(ROWS["gpu and latency"])]
    (on_cpu,) = re.findall(r"of the (\d+) calls of the last one", KERNELS)
    assert count_tests("tests/kernels", "latency and not gpu") == int(on_cpu)


@pytest.mark.parametrize(
    ("marker", "said"),
    [("gpu", r"folder of (\d+) published evaluation numbers"), ("embedded", r"all (\d+) numbers of the")],
)
def test_the_published_numbers_and_those_of_the_stand_ins(marker: str, said: str) -> None:
    (count,) = re.findall(said, README)
    assert count_tests("tests/published", marker) == int(count)
