"""The core asks for the proof that kernels ran, whoever implements the evaluation hook."""

from __future__ import annotations

from typing import Any

import pytest

from scanproof.files import to_json
from scanproof.kernels.launches.launched import Launch, Launches
from tests.support.small_project import GOOD, Project

RAN = Launches(
    launched=(
        Launch(
            name="_chunk_scan_fwd_kernel",
            how="triton",
            count=64,
            file="/site-packages/mamba_ssm/ops/triton/ssd_chunk_scan.py",
            distribution="mamba-ssm",
        ),
    )
)


def run(project: Project, launches: Launches | None) -> tuple[pytest.RunResult, Any]:
    project.document(models=("one",), kernels="_chunk_scan_fwd_kernel")
    if launches is not None:
        (project.root / "launches.json").write_bytes(to_json(launches))
    return project.run("-m", "gpu"), project.latest_run()


def test_kernels_that_ran_are_kept_with_the_run(project: Project) -> None:
    result, kept = run(project, RAN)
    result.assert_outcomes(passed=3)
    assert kept["evaluations"][0]["kernels"]["launched"][0]["name"] == "_chunk_scan_fwd_kernel"


@pytest.mark.parametrize(
    ("launches", "why"),
    [
        pytest.param(None, "the evaluation does not say which kernels it launched", id="nothing_said"),
        pytest.param(Launches(), "of mamba-ssm: not launched", id="fallback"),
    ],
)
def test_right_numbers_of_a_fallback_are_errors_not_passes(
    project: Project, launches: Launches | None, why: str
) -> None:
    result, kept = run(project, launches)
    result.assert_outcomes(errors=3)
    result.stdout.fnmatch_lines(
        ["*not measured: fallback: kernels that the numbers need did not run", f"*_chunk_scan_fwd_kernel*{why}*"]
    )
    assert {record["outcome"] for record in kept["records"]} == {"ERROR"}
    assert kept["evaluations"] == []


def test_a_number_out_of_tolerance_says_what_the_autotuner_chose_otherwise(project: Project) -> None:
    (project.root / "changes.json").write_text('["autotuner: a_kernel chose num_warps 8 (4 before) for 64"]')
    project.answer([["arc_easy", "acc", 0.9, 2376], *GOOD[1:]])
    result, _ = run(project, RAN)
    result.assert_outcomes(passed=2, failed=1)
    result.stdout.fnmatch_lines(["  changed     autotuner: a_kernel chose num_warps 8 (4 before) for 64"])
