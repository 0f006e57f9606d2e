"""Under `filterwarnings = error`, what torch warns of turns no kernel test on a GPU red."""

from __future__ import annotations

from pathlib import Path

import pytest

KERNELS = Path(__file__).parents[1] / "kernels"
TESTS = """
import warnings
import pytest

torch = {"__name__": "torch.cuda"}
exec("import warnings\\ndef synchronize(): warnings.warn('of torch, for its caller', stacklevel=2)", torch)

@pytest.fixture
def kernels():
    torch["synchronize"]()

@pytest.mark.gpu
def test_gpu(kernels): torch["synchronize"]()

@pytest.mark.gpu
def test_gpu_ours(): warnings.warn("of ours")

def test_cpu(): torch["synchronize"]()
"""


def test_on_a_gpu_it_is_shown_and_elsewhere_an_error(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(KERNELS))
    pytester.makeini("[pytest]\nfilterwarnings = error\n")
    pytester.makeconftest('pytest_plugins = ["kernel_places"]\n')
    pytester.makepyfile(TESTS)
    result = pytester.runpytest_subprocess("-rA")
    result.assert_outcomes(passed=1, failed=2, warnings=2)
    result.stdout.fnmatch_lines_random(["PASSED*test_gpu", "FAILED*test_gpu_ours*", "FAILED*test_cpu*"])
    result.stdout.fnmatch_lines(["*UserWarning: of torch, for its caller*"])
