"""Runs Triton kernels of mamba-ssm, causal-conv1d and fla on a CPU, in Triton's interpreter.

Call `prepare()` before the first import of triton or mamba_ssm, in a process that does nothing else: it changes both
permanently.  Each function below says why its change is needed.
"""

from __future__ import annotations

import ast
import contextlib
import functools
import importlib.util
import os
import sys
import types
import warnings
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any
from unittest import mock

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


@cache
def prepare() -> None:
    """Change triton, mamba_ssm and torch, once, so that the kernels run in this process.

    Twice would wrap the changes themselves.

    Raises:
        RuntimeError: TRITON_INTERPRET=1 is not set, or mamba_ssm is not installed.
    """
    if os.environ.get("TRITON_INTERPRET") != "1":
        raise RuntimeError("TRITON_INTERPRET=1 has to be set before Python starts")
    os.environ["MAMBA_DETERMINISTIC"] = "1"
    prepare_triton()
    _replace_extensions()
    _skip_package_init("mamba_ssm")
    if importlib.util.find_spec("causal_conv1d") is not None:
        _skip_package_init("causal_conv1d")
    _replace_libraries()
    _replace_autotuner()
    _replace_convolution()
    _answer_for_tensors()


@cache
def prepare_triton() -> None:
    """Change triton and torch, once in a process, so that kernels of anybody run in it; nothing else is imported."""
    _replace_gpu()
    _correct_bfloat16()
    _give_loops_tensors()
    _overflow_silently()
    _leave_out_unseen_checks()
    _interpret_assembly()


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


def _skip_package_init(name: str) -> None:
    """Skip the package's own __init__.py; the kernels need nothing of it.

    mamba_ssm's imports all models.  causal_conv1d's gives the operations of its CUDA extension to mamba_ssm, which does
    without them, or stops, where it finds none.
    """
    spec = importlib.util.find_spec(name)
    if spec is None or spec.submodule_search_locations is None:
        raise RuntimeError(f"{name} is not installed")
    package = types.ModuleType(name)
    package.__path__ = list(spec.submodule_search_locations)
    sys.modules[name] = package


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


def _replace_autotuner() -> None:
    """Choose a configuration at each launch: that of mamba_ssm's deterministic mode, or fla's first.

    Measuring needs a GPU.  That mode leaves each kernel one configuration when its module is imported.  Here kernels
    keep them all, so that a test can have the others run.  Kernels of others are left as they are.
    """
    from mamba_ssm.utils import determinism
    from triton.runtime.autotuner import Autotuner

    choose, launch = determinism.autotune_configs, Autotuner.run
    determinism.autotune_configs = lambda configs: configs

    def run(self: Any, *args: Any, **kwargs: Any) -> Any:
        package = self.base_fn.__module__.partition(".")[0]
        if package not in ("mamba_ssm", "fla"):
            return launch(self, *args, **kwargs)
        configs = self.configs
        with warnings.catch_warnings():
            # The warning advises to cache the autotuner's choices; nothing is measured here.
            warnings.filterwarnings("ignore", "Deterministic mode", UserWarning)
            self.configs = (configs if package == "fla" else choose(configs))[:1]
        try:
            return launch(self, *args, **kwargs)
        finally:
            self.configs = configs

    Autotuner.run = run


def _correct_bfloat16() -> None:
    """Correct what the interpreter makes of bfloat16, which it stores as 16-bit patterns.

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
    _compute_bfloat16(builder, widened)


def _compute_bfloat16(builder: Any, widened: Callable[[Any], Any]) -> None:
    """Let constants be bfloat16, and compute with bfloat16 in float32, rounding each result, as a GPU does.

    The interpreter lacks such constants, and adds, multiplies and compares 16-bit patterns as integers.  A sum along an
    axis is rounded once, at its end, as numpy does it for float16; a GPU rounds after each addition.
    """
    import numpy as np
    import triton.language as tl
    from triton.runtime import interpreter

    compute, change, add_up = builder.binary_op, builder.create_atomic_rmw, interpreter.ReduceOps.sum

    def get_bf16(self: Any, value: float) -> Any:
        return interpreter.TensorHandle(_to_bfloat16(self.get_fp32(value).data), tl.bfloat16)

    def binary_op(self: Any, left: Any, right: Any, operation: Any) -> Any:
        if tl.bfloat16 not in (left.dtype.scalar, right.dtype.scalar):
            return compute(self, left, right, operation)
        result = operation(widened(left).data, widened(right).data)
        # What compares has truth values, which the caller gives their type.
        return interpreter.TensorHandle(_to_bfloat16(result) if result.dtype.kind == "f" else result, tl.bfloat16)

    def sum_of(self: Any, terms: Any) -> Any:
        if terms.dtype.scalar != tl.bfloat16:
            return add_up(self, terms)
        total = _from_bfloat16(terms.handle.data).sum(axis=self.axis, keepdims=self.keep_dims)
        return self.to_tensor(_to_bfloat16(total), terms.dtype)

    def create_atomic_rmw(self: Any, kind: Any, pointers: Any, value: Any, mask: Any, *rest: Any) -> Any:
        if value.dtype.scalar != tl.bfloat16:
            return change(self, kind, pointers, value, mask, *rest)
        # One program after the other, and no address twice in a block.
        if len(np.unique(pointers.data[mask.data])) < int(mask.data.sum()) or "FADD" not in str(kind):
            raise NotImplementedError("an atomic operation on bfloat16 other than adding to separate addresses")
        before = self.create_masked_load(pointers, mask, None, None, None, False)
        self.create_masked_store(pointers, binary_op(self, before, value, np.add), mask, None, None)
        return before

    builder.get_bf16, builder.binary_op, builder.create_atomic_rmw = get_bf16, binary_op, create_atomic_rmw
    interpreter.ReduceOps.sum = sum_of


def _give_loops_tensors() -> None:
    """Make the variable of a loop over a `range` a tensor, as a compiler does.

    The interpreter makes a tensor of what a kernel assigns, but leaves a loop's variable a Python int, of which fla's
    kernels ask methods of a tensor: `i_t.to(tl.int64)`.  Here each turn begins with the variable assigned to itself.
    """
    from triton.runtime import interpreter

    def visit_for(self: Any, node: ast.For) -> ast.For:
        self.generic_visit(node)
        call = node.iter.func if isinstance(node.iter, ast.Call) else None
        # Not of `tl.static_range`, whose variable is a constant of the compiler.
        if isinstance(node.target, ast.Name) and ast.unparse(call or node.iter) in ("range", "tl.range"):
            name = node.target.id
            assigned = ast.Assign([ast.Name(name, ast.Store())], ast.Name(name, ast.Load()))
            node.body.insert(0, self.visit(assigned))
        return node

    interpreter.ASTTransformer.visit_For = visit_for


def _overflow_silently() -> None:
    """Let an exponential be infinite without a warning, as on a GPU, and what is made of it no number.

    Kernels compute what they then do not choose.  Only while a kernel runs: the process has NumPy code of its own.
    """
    import numpy as np
    from triton.runtime import interpreter

    launch = interpreter.GridExecutor.__call__

    @functools.wraps(launch)
    def launch_silently(self: Any, *args: Any, **kwargs: Any) -> Any:
        with np.errstate(over="ignore", invalid="ignore"):
            return launch(self, *args, **kwargs)

    interpreter.GridExecutor.__call__ = launch_silently


def _leave_out_unseen_checks() -> None:
    """Compute no check of an integer's overflow whose answer nobody sees: without debugging an assertion does nothing.

    Triton's compiler leaves these checks out as well.
    """
    from triton.runtime import interpreter

    builder = interpreter.interpreter_builder
    if hasattr(builder.options, "sanitize_overflow"):
        builder.options = replace(builder.options, sanitize_overflow=builder.options.debug)


def _interpret_assembly() -> None:
    """Compute the functions that kernels take from PTX by inline assembly; any other assembly stays an error.

    A GPU's instructions are approximations (`references.precision.ApproximateFunctions`); here they are exact.
    """
    import numpy as np
    import triton.language as tl
    from triton.runtime import interpreter

    functions = {"cos.approx.f32": np.cos, "sin.approx.f32": np.sin, "tanh.approx.f32": np.tanh}
    builder = interpreter.InterpreterBuilder
    refuse = builder.create_inline_asm

    def create_inline_asm(self: Any, assembly: str, constraints: str, values: Any, *rest: Any) -> Any:
        function = next((one for name, one in functions.items() if assembly == f"{name} $0, $1;"), None)
        if function is None:
            return refuse(self, assembly, constraints, values, *rest)
        result = interpreter.TensorHandle(function(values[0].data), tl.float32)
        return types.SimpleNamespace(get_result=lambda number: result)

    builder.create_inline_asm = create_inline_asm


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
        wide = [part if part is None else part.float() for part in (x, weight, bias)]
        return convolve(wide, seq_idx, silu).to(x.dtype)

    def backward(
        x: Any, weight: Any, bias: Any, dout: Any, seq_idx: Any, initial: Any, dfinal: Any, dx: Any, *flags: bool
    ) -> tuple[Any, ...]:
        given = [part for part in (x, weight, bias) if part is not None]
        wide = [part.detach().float().requires_grad_() for part in given]
        with torch.enable_grad():
            y = convolve([*wide, *([] if bias is not None else [None])], seq_idx, flags[-1])
            gradients_float32 = torch.autograd.grad(y, wide, dout.float())
        gradients = [gradient.to(part.dtype) for gradient, part in zip(gradients_float32, given, strict=True)]
        dx.copy_(gradients[0])
        return (dx, gradients[1], gradients[2] if bias is not None else None)

    ssd_combined.causal_conv1d_fwd_function = forward
    ssd_combined.causal_conv1d_bwd_function = backward


def _answer_for_tensors() -> None:
    """Let tensors say that they are on a GPU while two launchers of Mamba-3 run, which refuse all others."""
    try:
        from mamba_ssm.ops.triton.mamba3 import mamba3_siso_bwd
    except ImportError:
        # A mamba_ssm older than Mamba-3.
        return
    for name in ("compute_dzdo", "compute_dqkv"):
        setattr(mamba3_siso_bwd, name, _as_if_on_gpu(getattr(mamba3_siso_bwd, name)))


def _as_if_on_gpu(launch: Any) -> Any:
    @functools.wraps(launch)
    def launch_on_cpu(*args: Any, **kwargs: Any) -> Any:
        with mock.patch.object(torch.Tensor, "is_cuda", True):
            return launch(*args, **kwargs)

    return launch_on_cpu
