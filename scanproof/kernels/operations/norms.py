"""The norms."""

from __future__ import annotations

from scanproof.kernels import costs
from scanproof.kernels.inputs import ArgumentSpec, OutputSpec
from scanproof.kernels.operation import Op, optional_argument
from scanproof.kernels.references import norms

_FUSED = (
    ArgumentSpec("x", "b l d"),
    ArgumentSpec("weight", "d", "near_one"),
    optional_argument("residual", "b l d"),
)
_NORM_OUTPUTS = (
    OutputSpec("out", "b l d"),
    OutputSpec("residual", "b l d", "input", "prenorm", wide="residual_in_fp32"),
)

LAYER_NORM = Op(
    name="layer_norm_fn",
    package="mamba-ssm",
    module="mamba_ssm.ops.triton.layer_norm",
    reference=norms.layer_norm_fn,
    arguments=(*_FUSED, ArgumentSpec("bias", "d")),
    outputs=_NORM_OUTPUTS,
    # Without a residual of the block before, the sum is x itself.
    aliases=("residual",),
    flop=costs.norm,
    backward_flop=costs.norm_backward,
)

RMS_NORM = Op(
    name="rms_norm_fn",
    package="mamba-ssm",
    module="mamba_ssm.ops.triton.layer_norm",
    reference=norms.rms_norm_fn,
    arguments=(*_FUSED, ArgumentSpec("bias", "", "none")),
    outputs=_NORM_OUTPUTS,
    # Without a residual of the block before, the sum is x itself.
    aliases=("residual",),
    flop=costs.norm,
    backward_flop=costs.norm_backward,
)

GATED_NORM = Op(
    name="rmsnorm_fn",
    package="mamba-ssm",
    module="mamba_ssm.ops.triton.layernorm_gated",
    reference=norms.rmsnorm_fn,
    arguments=(
        ArgumentSpec("x", "b l d"),
        ArgumentSpec("weight", "d", "near_one"),
        ArgumentSpec("bias", "", "none"),
        optional_argument("z", "b l d"),
    ),
    outputs=(OutputSpec("out", "b l d"),),
    flop=costs.norm,
    backward_flop=costs.norm_backward,
)

NORMS = (LAYER_NORM, RMS_NORM, GATED_NORM)
