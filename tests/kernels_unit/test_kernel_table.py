"""The table of kernels contains everything that expected values and the kernel suite name."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from scanproof.kernels.launches import kernel_table
from scanproof.numbers.expected import reader
from tests.support.late import Late

if TYPE_CHECKING:
    from scanproof.kernels import operation, operation_table
else:
    operation_table = Late("scanproof.kernels.operation_table")
    operation = Late("scanproof.kernels.operation")

EXPECTED = Path(__file__).parents[2] / "expected"


def test_every_kernel_that_a_job_names_is_in_the_table() -> None:
    named = {name for value in reader.load(EXPECTED).values for name in value.job.kernels}
    assert named, "the published numbers name kernels"
    assert [name for name in sorted(named) if not kernel_table.find_kernels(name)] == []


def test_no_embedded_job_names_a_kernel_and_every_mamba_job_on_a_gpu_does() -> None:
    for value in reader.load(EXPECTED).values:
        if value.job.suite == "embedded":
            assert value.job.kernels == ()
        elif "mamba" in value.hub_id.rpartition("/")[2].lower():
            assert any("scan" in name for name in value.job.kernels), value.job.name


@pytest.mark.parametrize("row", kernel_table.OPERATIONS, ids=lambda row: row.name)
def test_what_an_operation_launches_is_in_the_table_and_comes_from_its_package(row: kernel_table.Operation) -> None:
    op = operation_table.find_operation(row.name)
    for name in (*row.forward, *row.backward):
        assert kernel_table.find_kernels(name), name
    distributions = {each.distribution for name in row.forward for each in kernel_table.find_kernels(name)}
    assert op.package in distributions
    module = op.module.partition(".")[0]
    assert module in kernel_table.find_package(op.package).modules


def test_every_operation_of_the_suite_says_what_it_launches() -> None:
    assert {op.name for op in operation_table.OPS} == {row.name for row in kernel_table.OPERATIONS}


def test_no_proof_in_the_interpreter_is_empty() -> None:
    for op in operation_table.OPS:
        triton = [name for name in kernel_table.find_operation(op.name).forward if "." not in name]
        assert bool(triton) == (op.interpreter != operation.CUDA_ONLY), op.name


def test_a_case_with_a_backward_pass_has_to_launch_its_kernels_too() -> None:
    from scanproof.kernels.cases import load

    case = next(each for each in load() if each.id == "mamba_split_conv1d_scan_combined-block-float32")
    assert case.backward
    op = operation_table.find_operation(case.op)
    assert {"causal_conv1d_cuda.causal_conv1d_bwd", "_state_passing_bwd_kernel"} <= set(op.needed_kernels(case))
    forward = op.needed_kernels(replace(case, backward=False))
    assert "_chunk_scan_fwd_kernel" in forward
    assert not any("bwd" in name for name in forward)
