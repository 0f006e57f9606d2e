"""A package that refuses to compute on this machine is missing here; whoever else raises the same words has failed."""

from __future__ import annotations

import pytest

SAID = (
    "Triton >= 3.4.0 and < 3.7.1 on Hopper GPUs produces incorrect results for gated chunk_bwd_dqkwg (see #640). "
    "Please upgrade Triton to >= 3.7.1"
)
RAISES = "def run(): raise {kind}({said!r})"
TEST = """
import pytest
import {module}

@pytest.mark.parametrize("scanproof_place", ["cpu"])
def test_kernel(scanproof_kernels): {module}.run()
"""
BACKWARD = """
import torch

class Rule(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x): return x * 2
    @staticmethod
    def backward(ctx, grad): raise RuntimeError({said!r})

def run(): Rule.apply(torch.ones(1, requires_grad=True)).sum().backward()
"""


def run_kernel(pytester: pytest.Pytester, source: str, *options: str, module: str = "fla") -> pytest.RunResult:
    pytester.makepyfile(**{module: source, "test_it": TEST.format(module=module)})
    return pytester.runpytest_subprocess("-rs", *options)


@pytest.mark.parametrize("source", [RAISES.format(kind="RuntimeError", said=SAID), BACKWARD.format(said=SAID)])
def test_a_refusal_is_a_skip_and_fails_a_strict_session(pytester: pytest.Pytester, source: str) -> None:
    result = run_kernel(pytester, source)
    result.assert_outcomes(skipped=1)
    result.stdout.fnmatch_lines([f"*not measured: fla-core refuses to compute here: {SAID[:40]}*"])
    strict = run_kernel(pytester, source, "--scanproof-strict")
    assert strict.ret == pytest.ExitCode.TESTS_FAILED
    strict.stdout.fnmatch_lines(["*not measured: fla-core refuses to compute here*--scanproof-strict: not a skip*"])


@pytest.mark.parametrize(
    ("source", "module"),
    [
        (RAISES.format(kind="RuntimeError", said="an illegal shape"), "fla"),
        (RAISES.format(kind="ValueError", said=SAID), "fla"),
        (RAISES.format(kind="RuntimeError", said=SAID), "mykernels"),
    ],
    ids=["another error", "another type", "another package"],
)
def test_another_error_fails(pytester: pytest.Pytester, source: str, module: str) -> None:
    run_kernel(pytester, source, module=module).assert_outcomes(failed=1)


def test_what_is_refused_while_a_latency_is_set_up_is_a_skip_too(pytester: pytest.Pytester) -> None:
    """What is timed is called in a fixture, which asks for the kernels by their name."""
    pytester.makepyfile(
        fla=RAISES.format(kind="RuntimeError", said=SAID),
        test_it="""
            import pytest
            import fla

            @pytest.fixture
            def timed(request): fla.run()

            @pytest.mark.parametrize("scanproof_place", ["cpu"])
            def test_latency(scanproof_place, timed): pass
        """,
    )
    pytester.runpytest_subprocess().assert_outcomes(skipped=1)
    strict = pytester.runpytest_subprocess("--scanproof-strict")
    assert strict.ret == pytest.ExitCode.TESTS_FAILED
    strict.stdout.fnmatch_lines(["*not measured: fla-core refuses to compute here*--scanproof-strict: not a skip*"])
