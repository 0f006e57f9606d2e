"""Runs mamba-ssm's Triton kernels on a CPU, in Triton's interpreter.

Call `prepare()` before the first import of triton or mamba_ssm, in a process that does nothing else: it changes both
permanently.  Each function below says why its change is needed.
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
"""Package -> those of its modules that mamba_ssm imports."""
MULTIPROCESSORS = 2
"""The number of multiprocessors that kernels are told; any small number works."""


def why_not() -> str | None:
    """The reason why the kernels cannot be interpreted in this process, or None when they can."""
    if os.environ.get("TRITON_INTERPRET") != "1":
        return "needs a process of its own with TRITON_INTERPRET=1: tox -e interpreted"
    missing = [name for name in ("triton", "mamba_ssm") if importlib.util.find_spec(name) is None]
    if missing:
        return f"needs {' and '.join(missing)}, which are not installed here: tox -e interpreted"
    return None


def prepare() -> None:
    """Change triton, mamba_ssm and torch so that the kernels run in this process.

    Raises:
        RuntimeError: TRITON_INTERPRET=1 is not set, or mamba_ssm is not installed.
    """
    if os.environ.get("TRITON_INTERPRET") != "1":
        raise RuntimeError("TRITON_INTERPRET=1 has to be set before Python starts")
    # The autotuner needs a GPU to measure.  In this mode each kernel has one configuration: nothing is measured.
    os.environ["MAMBA_DETERMINISTIC"] = "1"
    _replace_gpu()
    _replace_extensions()
    _skip_package_init()
    _replace_libraries()
    _correct_bfloat16()
    with warnings.catch_warnings():
        # The warning advises to cache the autotuner's choices; there is no autotuner here.
        warnings.filterwarnings("ignore", "Deterministic mode", UserWarning)
        importlib.import_module("mamba_ssm.ops.triton.ssd_combined")
    _replace_convolution()


def _replace_gpu() -> None:
    """Answer what the launchers ask torch about the GPU: which one it is and, for backward, its multiprocessors."""
    cuda: Any = torch.cuda
    cuda.device = lambda *_: contextlib.nullcontext()
    cuda.get_device_properties = lambda *_: types.SimpleNamespace(multi_processor_count=MULTIPROCESSORS)


def _replace_extensions() -> None:
    """Put empty modules in place of the CUDA extensions, which mamba_ssm imports before the Triton kernels."""
    for name in EXTENSIONS:
        if importlib.util.find_spec(name) is None:
            sys.modules[name] = types.ModuleType(name)


def _skip_package_init() -> None:
    """Skip mamba_ssm/__init__.py, which imports all models; the kernels need none of them."""
    spec = importlib.util.find_spec("mamba_ssm")
    if spec is None or spec.submodule_search_locations is None:
        raise RuntimeError("mamba_ssm is not installed")
    package = types.ModuleType("mamba_ssm")
    package.__path__ = list(spec.submodule_search_locations)
    sys.modules["mamba_ssm"] = package


class _Names(types.ModuleType):
    """A module in which every public name is `object`, so that classes can derive from it."""

    def __getattr__(self, name: str) -> type:
        if name.startswith("_"):
            raise AttributeError(name)
        return object


def _replace_libraries() -> None:
    """Put stand-ins in place of libraries that mamba_ssm imports but that compute no logit, where they are missing."""
    for package, modules in LIBRARIES.items():
        if importlib.util.find_spec(package) is None:
            sys.modules.update({name: _Names(name) for name in modules})


def _correct_bfloat16() -> None:
    """Correct two errors in the interpreter's bfloat16, which it stores as 16-bit patterns.

    `tl.dot` multiplies the patterns as integers (triton issue 11584): here both operands are converted to float32
    first, in which products of bfloat16 are exact.  A cast from float32 to bfloat16 truncates, where a GPU rounds to
    nearest: that makes errors twice as large, and all in the same direction.
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
    """Convert 16-bit patterns of bfloat16 to float32 values."""
    import numpy as np

    return (patterns.astype(np.uint32) << 16).view(np.float32)


def _to_bfloat16(values: Any) -> Any:
    """Convert float32 values to 16-bit patterns of bfloat16, rounding to nearest, ties to even."""
    import numpy as np

    values = np.ascontiguousarray(values)
    bits = values.view(np.uint32)
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    return np.where(np.isnan(values), 0x7FC0, rounded).astype(np.uint16)


def _replace_convolution() -> None:
    """Replace the convolution in mamba_split_conv1d_scan_combined, which is a CUDA extension, by PyTorch's.

    So the interpreter tests everything in this operation except its convolution.
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
            gradients_float32 = torch.autograd.grad(convolve(wide, seq_idx, flags[-1]), wide, dout.float())
        gradients = [
            gradient.to(part.dtype) for gradient, part in zip(gradients_float32, (x, weight, bias), strict=True)
        ]
        dx.copy_(gradients[0])
        return (dx, *gradients[1:])

    ssd_combined.causal_conv1d_fwd_function = forward
    ssd_combined.causal_conv1d_bwd_function = backward
