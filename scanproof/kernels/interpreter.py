"""mamba-ssm's Triton kernels on a CPU, through Triton's interpreter.

`prepare()` comes before the first import of triton or mamba_ssm, in a process that does nothing else: it changes
both for good.  Each change says what fails without it.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import os
import sys
import types
import warnings
from typing import Any

import torch

EXTENSIONS = ("selective_scan_cuda", "causal_conv1d_cuda")
LIBRARIES = {
    "huggingface_hub": ("huggingface_hub",),
    "transformers": ("transformers", "transformers.generation", "transformers.utils", "transformers.utils.hub"),
}
"""Package -> the modules of it that mamba_ssm imports."""
MULTIPROCESSORS = 2


def why_not() -> str | None:
    """Why the kernels cannot be interpreted in this process, or None when they can."""
    if os.environ.get("TRITON_INTERPRET") != "1":
        return "needs a process of its own with TRITON_INTERPRET=1: tox -e interpreted"
    missing = [name for name in ("triton", "mamba_ssm") if importlib.util.find_spec(name) is None]
    if missing:
        return f"needs {' and '.join(missing)}, which are not installed here: tox -e interpreted"
    return None


def prepare() -> None:
    """Make the kernels run; RuntimeError when triton was imported too early."""
    if os.environ.get("TRITON_INTERPRET") != "1":
        raise RuntimeError("TRITON_INTERPRET=1 has to be set before Python starts")
    # The autotuner measures on a GPU.  In this mode each kernel has one configuration and nothing is measured.
    os.environ["MAMBA_DETERMINISTIC"] = "1"
    _without_gpu()
    _without_extensions()
    _without_init()
    _without_libraries()
    _bfloat16()
    with warnings.catch_warnings():
        # It advises to cache what the autotuner found; there is no autotuner here.
        warnings.filterwarnings("ignore", "Deterministic mode", UserWarning)
        importlib.import_module("mamba_ssm.ops.triton.ssd_combined")
    _convolution()


def _without_gpu() -> None:
    """The launchers ask torch for the GPU they are on: which one, and in backward how many processors it has."""
    cuda: Any = torch.cuda
    cuda.device = lambda *_: contextlib.nullcontext()
    cuda.get_device_properties = lambda *_: types.SimpleNamespace(multi_processor_count=MULTIPROCESSORS)


def _without_extensions() -> None:
    """mamba_ssm imports its CUDA extensions on the way to the Triton kernels; empty ones satisfy it."""
    for name in EXTENSIONS:
        if importlib.util.find_spec(name) is None:
            sys.modules[name] = types.ModuleType(name)


def _without_init() -> None:
    """mamba_ssm/__init__.py imports every model it has; the kernels need none, and a test imports what it needs."""
    spec = importlib.util.find_spec("mamba_ssm")
    if spec is None or spec.submodule_search_locations is None:
        raise RuntimeError("mamba_ssm is not installed")
    package = types.ModuleType("mamba_ssm")
    package.__path__ = list(spec.submodule_search_locations)
    sys.modules["mamba_ssm"] = package


class _Names(types.ModuleType):
    """A module that has every public name: an empty class to derive from."""

    def __getattr__(self, name: str) -> type:
        if name.startswith("_"):
            raise AttributeError(name)
        return object


def _without_libraries() -> None:
    """mamba_ssm's modules import libraries that download, print and sample; nothing of them computes a logit."""
    for package, modules in LIBRARIES.items():
        if importlib.util.find_spec(package) is None:
            sys.modules.update({name: _Names(name) for name in modules})


def _bfloat16() -> None:
    """The interpreter keeps bfloat16 as raw 16-bit patterns, and gets two things about them wrong.

    `tl.dot` multiplies the patterns as integers (triton issue 11584): both operands become float32 first, in which
    products of bfloat16 are exact.  Casting float32 to bfloat16 cuts the lower bits off, where a GPU rounds to the
    nearest: errors twice as large, all in one direction.
    """
    import triton.language as tl
    from triton.runtime import interpreter

    builder = interpreter.InterpreterBuilder
    dot, cast = builder.create_dot, builder.cast_impl

    def widened(operand: Any) -> Any:
        if operand.dtype.scalar != tl.bfloat16:
            return operand
        return interpreter.TensorHandle(_from_bfloat16(operand.data), tl.float32)

    def create_dot(self: Any, a: Any, b: Any, d: Any, *rest: Any) -> Any:
        return dot(self, widened(a), widened(b), d, *rest)

    def cast_impl(self: Any, source: Any, target: Any) -> Any:
        kinds = (source.dtype.scalar, target.scalar)
        if kinds == (tl.float32, tl.bfloat16):
            return interpreter.TensorHandle(_to_bfloat16(source.data), tl.bfloat16)
        if kinds == (tl.bfloat16, tl.float32):
            return interpreter.TensorHandle(_from_bfloat16(source.data), tl.float32)
        return cast(self, source, target)

    builder.create_dot, builder.cast_impl = create_dot, cast_impl
    builder.create_fp_ext = builder.create_fp_trunc = cast_impl


def _from_bfloat16(patterns: Any) -> Any:
    """float32 values of 16-bit patterns."""
    import numpy as np

    return (patterns.astype(np.uint32) << 16).view(np.float32)


def _to_bfloat16(values: Any) -> Any:
    """16-bit patterns of float32 values, rounded to the nearest, ties to even."""
    import numpy as np

    values = np.ascontiguousarray(values)
    bits = values.view(np.uint32)
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    return np.where(np.isnan(values), 0x7FC0, rounded).astype(np.uint16)


def _convolution() -> None:
    """Give the fused operation the convolution that it calls, from PyTorch: its own is a CUDA extension.

    What is then tested of mamba_split_conv1d_scan_combined is everything but the convolution.
    """
    from mamba_ssm.ops.triton import ssd_combined

    from scanproof.kernels.references.convolution import causal_conv1d_fn

    def convolve(parts: list[Any], seq_idx: Any, silu: bool) -> Any:
        x, weight, bias = parts
        return causal_conv1d_fn(x, weight, bias, seq_idx, activation="silu" if silu else None)[0]

    def forward(x: Any, weight: Any, bias: Any, seq_idx: Any, initial: Any, final_out: Any, silu: bool) -> Any:
        return convolve([part.float() for part in (x, weight, bias)], seq_idx, silu).to(x.dtype)

    def backward(
        x: Any, weight: Any, bias: Any, dout: Any, seq_idx: Any, initial: Any, dfinal: Any, dx: Any, *flags: bool
    ) -> tuple[Any, ...]:
        wide = [part.detach().float().requires_grad_() for part in (x, weight, bias)]
        with torch.enable_grad():
            found = torch.autograd.grad(convolve(wide, seq_idx, flags[-1]), wide, dout.float())
        gradients = [each.to(part.dtype) for each, part in zip(found, (x, weight, bias), strict=True)]
        dx.copy_(gradients[0])
        return (dx, *gradients[1:])

    ssd_combined.causal_conv1d_fwd_function = forward
    ssd_combined.causal_conv1d_bwd_function = backward
