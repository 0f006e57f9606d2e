"""Comparing a call with its references takes no more memory than `memory_needed` says."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any
from unittest import mock

import pytest

from scanproof.kernels import cases
from tests.support.late import Late

if TYPE_CHECKING:
    import torch

    from scanproof.kernels import compare, costs, inputs, operation_table
    from scanproof.kernels.operation import Op
    from tests.support import counted_memory as counted
else:
    torch, counted, inputs = Late("torch"), Late("tests.support.counted_memory"), Late("scanproof.kernels.inputs")
    costs, operation_table, compare = (
        Late("scanproof.kernels.costs"),
        Late("scanproof.kernels.operation_table"),
        Late("scanproof.kernels.compare"),
    )


def call(op: Op, case: cases.KernelCase) -> Callable[..., Any]:
    """Make an operation whose results have the right shapes and depend on every argument, but need almost no memory."""
    shapes = [inputs.shape_of(inputs.axes_of(each, case), op.sizes(case)) for each in op.expected_outputs(case)]

    def results(**given: Any) -> Any:
        seen: Any = sum(0 * each.flatten()[0].float() for each in given.values() if torch.is_tensor(each))
        outputs = tuple((torch.zeros(shape, dtype=torch.bfloat16) + seen).to(torch.bfloat16) for shape in shapes)
        return outputs if len(outputs) > 1 else outputs[0]

    return results


@pytest.mark.parametrize(
    ("wanted", "seqlen"),
    [
        ("mamba_inner_fn-long-mamba-130m-bfloat16", 2048),
        ("causal_conv1d_fn-long-bfloat16", 2048),
        ("flash_attn_func-long-llama-8b-bfloat16", 1024),
        ("rms_norm_fn-long-bfloat16", 2048),
    ],
)
def test_the_memory_that_is_asked_for_is_enough(wanted: str, seqlen: int) -> None:
    case = next(each for each in cases.load() if each.id == wanted)
    keys = {"m": seqlen} if case.op.startswith("flash") else {}
    case = replace(case, sizes={**case.sizes, "l": seqlen, **keys})
    op = operation_table.find_operation(case.op)
    with mock.patch("scanproof.kernels.costs.LEAST_MEMORY", 0):
        asked = costs.memory_needed(op, case)
    with counted.counted_memory() as memory:
        compare.compare_case(op, case, call(op, case))
    assert asked / 8 <= memory.peak <= asked
