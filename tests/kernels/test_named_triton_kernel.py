"""A Triton kernel of one's own, named for an operation, runs on the CPU in Triton's interpreter; a wrong one fails."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from scanproof.plugin.kernel_fixtures import Missing

KERNEL = """
import torch
import triton
import triton.language as tl

@triton.jit
def own_rms_norm_kernel(x, weight, out, d, eps, BLOCK: tl.constexpr):
    row, at = tl.program_id(0), tl.arange(0, BLOCK)
    value = tl.load(x + row * d + at, mask=at < d, other=0.0)
    # A matrix product, of which Triton's interpreter by itself makes nonsense in bfloat16.
    rows = tl.broadcast_to(value[None, :], (16, BLOCK))
    squares = tl.dot(rows, tl.trans(rows), input_precision="ieee")
    scale = 1 / tl.sqrt(tl.max(tl.max(squares, 1), 0) / d + eps)
    gain = tl.load(weight + at, mask=at < d, other=0.0).to(tl.float32)
    tl.store(out + row * d + at, (value.to(tl.float32) * scale * gain).to(out.dtype.element_ty), mask=at < d)

class Norm(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight, eps):
        ctx.save_for_backward(x, weight)
        ctx.eps, d = eps, x.shape[-1]
        x = x.contiguous()
        out = torch.empty_like(x)
        own_rms_norm_kernel[(x.numel() // d,)](x, weight, out, d, eps, BLOCK=triton.next_power_of_2(d))
        return out

    @staticmethod
    def backward(ctx, grad):
        with torch.enable_grad():
            x, weight = leaves = [part.detach().requires_grad_() for part in ctx.saved_tensors]
            wide = x.float()
            out = (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + ctx.eps) * weight.float()).to(x.dtype)
            return *torch.autograd.grad(out, leaves, grad), None

def norm(x, weight, bias, residual=None, eps=1e-6, prenorm=False, residual_in_fp32=False):
    return Norm.apply(x, weight, eps)
"""
CASES, CALLS = 3, 3
"""A case in each dtype, which is compared, and called twice with the same arguments, at least."""
SELECTED = ["-m", "provider", "-k", "rms_norm_fn-edge-d64", "--scanproof-strict", "-p", "no:cacheprovider"]


@pytest.mark.interpreted
@pytest.mark.parametrize(
    ("line", "changed", "code"),
    [("/ d + eps", "/ d + eps", 0), ("/ d + eps", "/ (d + 1) + eps", 1)],
    ids=["right", "wrong"],
)
def test_a_kernel_that_is_named_is_launched_and_compared(
    scanproof_interpreter: str | None, scanproof_missing: Missing, tmp_path: Path, line: str, changed: str, code: int
) -> None:
    if scanproof_interpreter is not None:
        scanproof_missing(scanproof_interpreter)
    assert line in KERNEL
    (tmp_path / "own_kernels.py").write_text(KERNEL.replace(line, changed))
    shutil.copy(Path(__file__).with_name("test_numerics.py"), tmp_path)
    named = "--scanproof-provider=rms_norm_fn=own_kernels:norm"
    result = subprocess.run(
        [sys.executable, "-m", "pytest", "test_numerics.py", named, *SELECTED],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == code, result.stdout + result.stderr
    if code:
        assert "rms_norm_fn-edge-d64-float32: " in result.stdout
    else:
        assert f"3 cases were compared and right; norm ({tmp_path}/own_kernels.py:" in result.stdout
        said = re.search(r"entered (\d+) times and launched own_rms_norm_kernel", result.stdout)
        assert said is not None, result.stdout
        assert int(said[1]) >= CASES * CALLS
