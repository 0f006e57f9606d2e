"""Under `filterwarnings = error`, what torch warns of turns no kernel test on a GPU red."""

from __future__ import annotations

import pytest

TESTS = """
import warnings
import pytest

torch = {"__name__": "torch.cuda"}
exec("import warnings\\ndef synchronize(): warnings.warn('of torch, for its caller', stacklevel=2)", torch)

@pytest.fixture
def kernels(scanproof_foreign_warnings):
    torch["synchronize"]()

@pytest.mark.gpu
def test_gpu(kernels): torch["synchronize"]()

@pytest.mark.gpu
def test_gpu_ours(kernels): warnings.warn("of ours")

def test_cpu(scanproof_foreign_warnings): torch["synchronize"]()
"""


def test_on_a_gpu_it_is_shown_and_elsewhere_an_error(pytester: pytest.Pytester) -> None:
    pytester.makeini("[pytest]\nfilterwarnings = error\n")
    pytester.makepyfile(TESTS)
    result = pytester.runpytest_subprocess("-rA")
    result.assert_outcomes(passed=1, failed=2, warnings=3)
    result.stdout.fnmatch_lines_random(["PASSED*test_gpu", "FAILED*test_gpu_ours*", "FAILED*test_cpu*"])
    result.stdout.fnmatch_lines(["*UserWarning: of torch, for its caller*"])
