"""Compare mamba_ssm's modules with the mixers of `scanproof.models` that have the same weights, in each way to compute.

A module has a fast path (one fused operation), a slow path (one operation after the other), and a decode step.  By the
criterion of the operations, each must be as close to float64 as our mixer in the module's dtype is.
Letters: b batch, l seqlen, d d_model.
"""

from __future__ import annotations

import importlib
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from scanproof.kernels.criterion import ATOL, ResultComparison, compare_result
from scanproof.kernels.invariants import BOUND
from scanproof.kernels.operation import LOSSY_SOFTPLUS
from scanproof.models.against_float64.module_cases import MAMBA2, Module
from scanproof.models.language_model import Block, make_mixer
from scanproof.models.layers import widen_dtype
from scanproof.models.layout import StateSpacesConfig
from scanproof.models.states import ScanState

D_MODEL, ROWS, LENGTH, PREFILL = 32, 2, 21, 17
"""Channels, rows, positions, and positions of a prefill; the last two are no multiples of the chunk size."""


def draw_weights(module: nn.Module) -> nn.Module:
    """Change the module's weights, from torch's current seed, so that the scan contributes as much as the skip D.

    With the initial weights the steps, B and C are so small that the scan's part of the output is lost in bfloat16.
    """
    with torch.no_grad():
        for name, value in module.named_parameters():
            if name.endswith(("D", "norm.weight", "norm2.weight")):
                value.add_(0.3 * torch.randn_like(value))
            if name.endswith(("in_proj.weight", "x_proj.weight", "conv1d.weight")):
                value.mul_(2.0)
            if name.endswith(("dt_bias", "dt_proj.bias")):
                value.uniform_(-5.0, 1.0)
    return module.eval()


def make_exact_mixer(module: Module) -> nn.Module:
    """The float64 mixer that computes what the module should; its weights are the same in every call."""
    torch.manual_seed(0)
    return draw_weights(make_mixer(module.layer, D_MODEL, torch.float64, dict(module.settings)))


def make_pair(module: Module, dtype: str, device: str, way: str) -> tuple[Any, nn.Module]:
    """mamba_ssm's module, set up for a way to compute, and the float64 mixer with the module's rounded weights."""
    exact = make_exact_mixer(module)
    file, _, name = module.target.partition(":")
    module_under_test = getattr(importlib.import_module(file), name)(
        D_MODEL, layer_idx=0, device=device, dtype=getattr(torch, dtype),
        **{**module.settings, module.fast: way == "fast path"},
    )  # fmt: skip
    module_under_test.load_state_dict(exact.state_dict())
    exact.load_state_dict(module_under_test.state_dict())
    return module_under_test.eval(), exact


def draw_input(dtype: str) -> Tensor:
    """(b, l, d), the input of the modules; the same in every call."""
    drawn = torch.randn(ROWS, LENGTH, D_MODEL, generator=torch.Generator().manual_seed(1))
    return drawn.to(getattr(torch, dtype))


@torch.no_grad()
def run_module(made: Any, x: Tensor, way: str) -> Tensor:
    """The output (b, l, d) of mamba_ssm's module for x (b, l, d), computed in one of WAYS."""
    if way in ("fast path", "slow path"):
        return torch.as_tensor(made(x))
    from mamba_ssm.utils.generation import InferenceParams

    params = InferenceParams(max_seqlen=LENGTH + 1, max_batch_size=ROWS)
    params.key_value_memory_dict[0] = made.allocate_inference_cache(ROWS, LENGTH + 1)
    start = PREFILL if way == "prefill, then steps" else 0
    outputs = [made(x[:, :start], inference_params=params)] if start else []
    for position in range(start, LENGTH):
        params.seqlen_offset = max(1, position)
        outputs.append(made(x[:, position : position + 1], inference_params=params))
    return torch.cat(outputs, dim=1)


@torch.no_grad()
def run_mixer(layer: Any, x: Tensor, way: str) -> Tensor:
    """`run_module` for our mixer; between steps its state is rounded to the dtype of x, as in mamba_ssm."""
    if way in ("fast path", "slow path"):
        return torch.as_tensor(layer(x)[0])
    start = PREFILL if way == "prefill, then steps" else 1
    state, outputs = layer.initial_state(len(x)), []
    for piece in torch.split(x, [start, *[1] * (x.shape[1] - start)], dim=1):
        output, state = layer(piece, state)
        assert isinstance(state, ScanState)
        state = replace(state, ssm=state.ssm.to(x.dtype).to(widen_dtype(x.dtype)))
        outputs.append(output)
    return torch.cat(outputs, dim=1)


def choose_atol(dtype: str, device: str) -> float:
    """The criterion's small constant, see `criterion.ATOL`; larger where softplus or TF32 loses digits."""
    if dtype == "float32" and device != "cpu":
        return BOUND["tf32"]
    return LOSSY_SOFTPLUS.get(dtype, ATOL[getattr(torch, dtype)])


def compare_way(module: Module, dtype: str, way: str, exact: nn.Module, got: Tensor, device: str) -> ResultComparison:
    """Compare the error of a module's output with that of our mixer in the module's dtype.

    Args:
        exact: the float64 mixer with the module's weights.
        got: (b, l, d), the module's output for `draw_input(dtype)`.
    """
    form = make_mixer(module.layer, D_MODEL, getattr(torch, dtype), dict(module.settings))
    form.load_state_dict(exact.state_dict())
    x = draw_input(dtype)
    return compare_result(
        f"{module.name}, {way}",
        got.cpu(),
        [run_mixer(form, x, way)],
        # In float64 it does not matter which path computes.
        run_mixer(exact, x.double(), "slow path"),
        choose_atol(dtype, device),
    )


def compare_block(fused: bool, dtype: str, device: str) -> ResultComparison:
    """Compare mamba_ssm's Block with ours: norm, Mamba-2, norm, gated MLP, with the residual in float32.

    Args:
        fused: whether one kernel computes addition and norm.
    """
    from functools import partial

    from mamba_ssm.modules.block import Block as BlockUnderTest
    from mamba_ssm.modules.mamba2 import Mamba2
    from mamba_ssm.modules.mlp import GatedMLP
    from mamba_ssm.ops.triton.layer_norm import RMSNorm

    config = StateSpacesConfig(
        d_model=D_MODEL, n_layer=1, vocab_size=8, d_intermediate=96, fused_add_norm=fused,
        ssm_cfg={"layer": "Mamba2", **MAMBA2},
    )  # fmt: skip
    torch.manual_seed(0)
    exact, form = draw_weights(Block(config, 0, torch.float64)), Block(config, 0, getattr(torch, dtype))
    where: dict[str, Any] = {"device": device, "dtype": getattr(torch, dtype)}
    made = BlockUnderTest(
        D_MODEL,
        partial(Mamba2, layer_idx=0, **MAMBA2, **where),
        partial(GatedMLP, hidden_features=96, out_features=D_MODEL, **where),
        norm_cls=partial(RMSNorm, eps=1e-5, **where),
        fused_add_norm=fused,
        residual_in_fp32=True,
    )
    made.load_state_dict(exact.state_dict())
    for block in (exact, form):
        block.load_state_dict(made.state_dict())
    x, before = draw_input(dtype), draw_input("float32").flip(0)
    with torch.no_grad():
        out, residual = made(x.to(device), before.to(device))
        return compare_result(
            f"block, {'fused' if fused else 'unfused'} addition and norm",
            (out.float() + residual).cpu(),
            [form(before + x, x.dtype)[0]],
            exact((before + x).double(), torch.float64)[0],
            choose_atol(dtype, device),
        )
