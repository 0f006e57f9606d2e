"""Latencies of what `--scanproof-provider` names: beside those of what is installed, and never their baseline."""

from __future__ import annotations

import pytest

from tests.support.latency_project import LatencyProject
from tests.support.small_project import Project

CASE = "rms_norm_fn-small-float32-forward"
NORM = """
import torch

def norm(x, weight, bias, residual=None, prenorm=False, eps=1e-6, **options):
    total = x if residual is None else x + residual
    normed = total * torch.rsqrt(total.square().mean(-1, keepdim=True) + eps) * weight
    return (normed, total) if prenorm else normed

def wrong(**given):
    normed, total = norm(**given)
    return 1.1 * normed, total
"""


@pytest.fixture
def measuring(latency_project: LatencyProject) -> LatencyProject:
    latency_project.measuring()
    package = latency_project.pytester.mkpydir("mypkg")
    (package / "ops.py").write_text(NORM)
    return latency_project


def run(project: LatencyProject, name: str, *more: str) -> pytest.RunResult:
    named = f"--scanproof-provider=rms_norm_fn=mypkg.ops:{name}"
    return project.run("test_latency.py", named, "-k", CASE, "-m", "latency and not gpu", *more)


def test_a_named_provider_is_timed_beside_what_is_installed(measuring: LatencyProject) -> None:
    result = run(measuring, "norm", "--benchmark-max-time=0.05")
    result.assert_outcomes(passed=2, deselected=result.parseoutcomes()["deselected"])
    result.stdout.fnmatch_lines([
        f"{CASE}-mypkg.ops:norm * NO_BASELINE",
        "side by side * PyTorch form * mypkg.ops:norm",
        # How often as fast, or, on a busy machine, that noise hides it.
        f"{CASE} * us (*)",
        "1 not compared: baselines are of what is installed; mypkg.ops:norm is timed beside it",
    ])  # fmt: skip
    own, named = measuring.latencies()
    assert (own["id"], own["provider"]) == (CASE, "")
    assert (named["id"], named["provider"]) == (f"{CASE}-mypkg.ops:norm", "mypkg.ops:norm")


def test_what_is_wrong_is_not_timed(measuring: LatencyProject) -> None:
    result = run(measuring, "wrong", "--benchmark-max-time=0.05")
    result.assert_outcomes(passed=1, errors=1, deselected=result.parseoutcomes()["deselected"])
    assert [found["outcome"] for found in measuring.latencies()] == ["NO_BASELINE", "WRONG"]
    result.stdout.no_fnmatch_line("side by side*")


def test_no_baseline_is_recorded_of_a_provider(measuring: LatencyProject, project: Project) -> None:
    """A recording has what is installed alone, in seven passes."""
    project.document()
    result = run(measuring, "norm", "--scanproof-record-latency", "--collect-only", "-q")
    result.stdout.fnmatch_lines(["7/* tests collected *"])
    result.stdout.no_fnmatch_line("*forward-mypkg*")
