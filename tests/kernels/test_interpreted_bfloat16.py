"""In Triton's interpreter bfloat16 and loops are as on a GPU, and inline assembly of known functions is computed."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from scanproof.plugin.kernel_fixtures import Missing
from tests.support.late import Late

if TYPE_CHECKING:
    import torch
else:
    torch = Late("torch")

KERNELS = """
import triton
import triton.language as tl

@triton.jit
def combine(x, y, sums, products, largest, less, ones, added, total, N: tl.constexpr):
    at = tl.arange(0, N)
    a, b = tl.load(x + at), tl.load(y + at)
    tl.store(sums + at, a + b)
    tl.store(products + at, a * b)
    tl.store(largest + at, tl.maximum(a, b))
    tl.store(less + at, (a < b).to(tl.int32))
    tl.store(ones + at, tl.full([N], 1, dtype=tl.bfloat16))
    tl.atomic_add(added + at, a)
    tl.store(total + tl.arange(0, 1), tl.sum(a, axis=0, keep_dims=True))

@triton.jit
def count(out, N: tl.constexpr):
    for i in range(N):
        tl.store(out + i, i.to(tl.int64))

@triton.jit
def turn(x, out, N: tl.constexpr):
    at = tl.arange(0, N)
    value = tl.load(x + at)
    tl.store(out + at, tl.inline_asm_elementwise(
        ASSEMBLY, constraints="=f,f", args=[value], dtype=tl.float32, is_pure=True, pack=1))
"""


def load(folder: Path, text: str) -> Any:
    file = folder / "kernels_here.py"
    file.write_text(text)
    spec = importlib.util.spec_from_file_location("kernels_here", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.interpreted
def test_bfloat16_is_added_multiplied_compared_summed_and_constant(
    scanproof_interpreter: str | None, scanproof_missing: Missing, tmp_path: Path
) -> None:
    if scanproof_interpreter is not None:
        scanproof_missing(scanproof_interpreter)
    kernels = load(tmp_path, KERNELS)
    x, y = (torch.randn(32, generator=torch.Generator().manual_seed(seed)).bfloat16() for seed in (0, 1))
    outputs = [torch.zeros_like(x) for _ in range(3)]
    less, ones, added = torch.zeros(32, dtype=torch.int32), torch.zeros_like(x), y.clone()
    total = torch.zeros(1, dtype=torch.bfloat16)
    kernels.combine[(1,)](x, y, *outputs, less, ones, added, total, N=32)
    for got, exact in zip(outputs, (x + y, x * y, torch.maximum(x, y)), strict=True):
        assert torch.equal(got, exact)
    assert torch.equal(less.bool(), x < y)
    assert torch.equal(ones, torch.ones_like(x))
    assert torch.equal(added, x + y)
    assert torch.equal(total, x.double().sum().bfloat16()[None])


@pytest.mark.interpreted
def test_a_loops_variable_is_a_tensor(
    scanproof_interpreter: str | None, scanproof_missing: Missing, tmp_path: Path
) -> None:
    if scanproof_interpreter is not None:
        scanproof_missing(scanproof_interpreter)
    out = torch.zeros(5, dtype=torch.int64)
    load(tmp_path, KERNELS).count[(1,)](out, N=5)
    assert torch.equal(out, torch.arange(5))


@pytest.mark.interpreted
@pytest.mark.parametrize(("instruction", "name"), [("cos", "cos"), ("sin", "sin"), ("tanh", "tanh"), ("ex2", None)])
def test_assembly_of_known_functions_is_computed_and_any_other_refused(
    scanproof_interpreter: str | None, scanproof_missing: Missing, tmp_path: Path, instruction: str, name: str | None
) -> None:
    if scanproof_interpreter is not None:
        scanproof_missing(scanproof_interpreter)
    kernels = load(tmp_path, KERNELS.replace("ASSEMBLY", f'"{instruction}.approx.f32 $0, $1;"'))
    x = torch.linspace(-3, 3, 32)
    out = torch.zeros_like(x)
    if name is None:
        with pytest.raises(Exception, match="inline_asm not supported"):
            kernels.turn[(1,)](x, out, N=32)
        return
    kernels.turn[(1,)](x, out, N=32)
    assert torch.allclose(out, getattr(torch, name)(x), rtol=1e-6, atol=1e-6)
