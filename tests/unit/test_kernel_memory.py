"""Comparing a call with its references takes no more memory than the case asks for."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from typing import TYPE_CHECKING
from unittest import mock

import pytest

from late import Late
from scanproof.kernels import cases

if TYPE_CHECKING:
    from scanproof.kernels import costs, ops
else:
    costs, ops = Late("scanproof.kernels.costs"), Late("scanproof.kernels.ops")

CHILD = """
import sys
from dataclasses import replace
import torch
from scanproof.kernels import arguments, cases, ops, run

def resident(name):
    lines = open("/proc/self/status").read().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(name))

wanted, seqlen = sys.argv[1], int(sys.argv[2])
case = next(each for each in cases.load() if each.id == wanted)
case = replace(case, sizes={**case.sizes, "l": seqlen, **({"m": seqlen} if case.op.startswith("flash") else {})})
op = ops.named(case.op)

def call(**given):
    '''Results of the right shape that depend on every argument, for next to no memory of their own.'''
    seen = sum(0 * each.flatten()[0].float() for each in given.values() if torch.is_tensor(each))
    shapes = [arguments.shape(arguments.axes_of(each, case), op.sizes(case)) for each in op.expected_outputs(case)]
    outputs = tuple((torch.zeros(shape, dtype=torch.bfloat16) + seen).to(torch.bfloat16) for shape in shapes)
    return outputs if len(outputs) > 1 else outputs[0]

torch.ones(64, 64) @ torch.ones(64, 64)
before = resident("VmRSS")
run.compare_case(op, case, call)
print(resident("VmHWM") - before)
"""
"""Peak memory of a case at another seqlen, beyond what was there before, in bytes."""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/self/status")
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
    with mock.patch("scanproof.kernels.costs.LEAST_MEMORY", 0):
        asked = costs.memory(ops.named(case.op), replace(case, sizes={**case.sizes, "l": seqlen, **keys}))
    # Of small blocks that are freed between others the C library keeps the place, which a GPU's allocator does not.
    env = {**os.environ, "MALLOC_MMAP_THRESHOLD_": str(2**17), "OMP_NUM_THREADS": "1"}
    peak = int(
        subprocess.run([sys.executable, "-c", CHILD, wanted, str(seqlen)], env=env, check=True, stdout=-1).stdout
    )
    assert asked / 8 <= peak <= asked
