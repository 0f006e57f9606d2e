"""Selective scan, Mamba's inner function, state update, SSD and its fused form."""

from __future__ import annotations

from scanproof.kernels import costs
from scanproof.kernels.inputs import ArgumentSpec, OutputSpec
from scanproof.kernels.operation import CUDA_ONLY, FLOAT32, LOSSY_SOFTPLUS, Op, integer_argument, optional_argument
from scanproof.kernels.references import mamba1, mamba2

SELECTIVE_SCAN = Op(
    name="selective_scan_fn",
    package="mamba-ssm",
    module="mamba_ssm.ops.selective_scan_interface",
    reference=mamba1.selective_scan_fn,
    arguments=(
        ArgumentSpec("u", "b d l"),
        ArgumentSpec("delta", "b d l"),
        ArgumentSpec("A", "d n", "decay", FLOAT32),
        ArgumentSpec("B", "b g n l"),
        ArgumentSpec("C", "b g n l"),
        optional_argument("D", "d", "normal", FLOAT32),
        optional_argument("z", "b d l"),
        optional_argument("delta_bias", "d", "step_bias", FLOAT32),
    ),
    outputs=(
        OutputSpec("out", "b d l"),
        OutputSpec("last_state", "b d n", FLOAT32, "return_last_state", differentiable=False),
    ),
    derived=lambda s: {"2l": 2 * s["l"]},
    flop=costs.selective_scan,
    backward_flop=costs.selective_scan_backward,
    fast_math=True,
    interpreter=CUDA_ONLY,
    atomic=("grad of A", "grad of B", "grad of C", "grad of D", "grad of delta_bias"),
)

INNER = Op(
    name="mamba_inner_fn",
    package="mamba-ssm",
    module="mamba_ssm.ops.selective_scan_interface",
    reference=mamba1.mamba_inner_fn,
    arguments=(
        ArgumentSpec("xz", "b 2d l"),
        ArgumentSpec("conv1d_weight", "d 1 w", "weight"),
        ArgumentSpec("conv1d_bias", "d"),
        ArgumentSpec("x_proj_weight", "x d", "weight"),
        ArgumentSpec("delta_proj_weight", "d r", "weight"),
        ArgumentSpec("out_proj_weight", "m d", "weight"),
        # The published models have no such bias; the operation has no default for it.
        ArgumentSpec("out_proj_bias", "", "none"),
        ArgumentSpec("A", "d n", "decay", FLOAT32),
        optional_argument("B", "d n"),
        optional_argument("C", "d n"),
        ArgumentSpec("D", "d", "normal", FLOAT32),
        ArgumentSpec("delta_bias", "d", "step_bias", FLOAT32),
        optional_argument("B_proj_bias", "n"),
        optional_argument("C_proj_bias", "n"),
        # Constants in the models that have them: the operation gives them no gradient.
        ArgumentSpec("b_rms_weight", "n", "near_one", optional=True, differentiable=False),
        ArgumentSpec("c_rms_weight", "n", "near_one", optional=True, differentiable=False),
        ArgumentSpec("dt_rms_weight", "d", "near_one", optional=True, differentiable=False),
    ),
    outputs=(OutputSpec("out", "b l m"),),
    flop=costs.inner,
    backward_flop=costs.inner_backward,
    derived=lambda s: {"2d": 2 * s["d"], "x": s["r"] + 2 * s["n"]},
    matmul=True,
    fast_math=True,
    interpreter=CUDA_ONLY,
    atomic=(
        "grad of xz", "grad of conv1d_weight", "grad of conv1d_bias", "grad of x_proj_weight", "grad of A",
        "grad of delta_proj_weight", "grad of B", "grad of C", "grad of D", "grad of delta_bias",
        "grad of B_proj_bias", "grad of C_proj_bias",
    ),
)  # fmt: skip

STATE_UPDATE = Op(
    name="selective_state_update",
    package="mamba-ssm",
    module="mamba_ssm.ops.triton.selective_state_update",
    reference=mamba1.selective_state_update,
    arguments=(
        ArgumentSpec("state", "N h p n"),
        ArgumentSpec("x", "b h p"),
        ArgumentSpec("dt", "b h p"),
        ArgumentSpec("A", "h p n", "decay", FLOAT32),
        ArgumentSpec("B", "b g n"),
        ArgumentSpec("C", "b g n"),
        # Optional by the signature of mamba-ssm 2.3.2, but required: the operation unpacks the strides of both.
        ArgumentSpec("D", "h p", "normal", FLOAT32),
        ArgumentSpec("dt_bias", "h p", "step_bias", FLOAT32),
        optional_argument("z", "b h p"),
        integer_argument("state_batch_indices", "b", "rows"),
    ),
    outputs=(OutputSpec("out", "b h p"), OutputSpec("state", "N h p n")),
    flop=costs.state_update,
    changes=("state",),
    atol=LOSSY_SOFTPLUS,
    atol_with="dt_softplus",
)

CHUNK_SCAN = Op(
    name="mamba_chunk_scan_combined",
    package="mamba-ssm",
    module="mamba_ssm.ops.triton.ssd_combined",
    reference=mamba2.mamba_chunk_scan_combined,
    arguments=(
        ArgumentSpec("x", "b l h p"),
        ArgumentSpec("dt", "b l h"),
        ArgumentSpec("A", "h", "decay", FLOAT32),
        ArgumentSpec("B", "b l g n"),
        ArgumentSpec("C", "b l g n"),
        optional_argument("D", "h", "normal", FLOAT32),
        optional_argument("z", "b l h p"),
        optional_argument("dt_bias", "h", "step_bias", FLOAT32),
        optional_argument("initial_states", "b h p n"),
        integer_argument("seq_idx", "b l", "seq_idx"),
        integer_argument("cu_seqlens", "S+1", "cu_seqlens"),
    ),
    outputs=(
        OutputSpec("out", "b l h p"),
        OutputSpec("final_states", "b h p n", FLOAT32, "return_final_states"),
        OutputSpec("varlen_states", "S h p n", "input", "return_varlen_states", differentiable=False),
    ),
    flop=costs.chunk_scan,
    backward_flop=costs.chunk_scan_backward,
    derived=lambda s: {"S+1": s["S"] + 1},
    matmul=True,
    tf32=True,
    atol=LOSSY_SOFTPLUS,
    atol_with="dt_softplus",
    atomic=("grad of dt", "grad of A", "grad of B", "grad of C", "grad of dt_bias"),
)

SPLIT_CONV_SCAN = Op(
    name="mamba_split_conv1d_scan_combined",
    package="mamba-ssm",
    module="mamba_ssm.ops.triton.ssd_combined",
    reference=mamba2.mamba_split_conv1d_scan_combined,
    arguments=(
        ArgumentSpec("zxbcdt", "b l e"),
        ArgumentSpec("conv1d_weight", "c w", "weight"),
        ArgumentSpec("conv1d_bias", "c"),
        ArgumentSpec("dt_bias", "h", "step_bias", FLOAT32),
        ArgumentSpec("A", "h", "decay", FLOAT32),
        ArgumentSpec("D", "h", "normal", FLOAT32),
        optional_argument("initial_states", "b h p n"),
        integer_argument("seq_idx", "b l", "seq_idx"),
        optional_argument("rmsnorm_weight", "i", "near_one"),
        optional_argument("outproj_weight", "m f+i", "weight"),
        optional_argument("outproj_bias", "m"),
    ),
    outputs=(OutputSpec("out", "b l o"), OutputSpec("final_states", "b h p n", FLOAT32, "return_final_states")),
    flop=costs.split_conv_scan,
    backward_flop=costs.split_conv_scan_backward,
    derived=lambda s: {
        "i": s["h"] * s["p"],
        "c": s["h"] * s["p"] + 2 * s["g"] * s["n"],
        "e": 2 * s.get("f", 0) + 2 * s["h"] * s["p"] + 2 * s["g"] * s["n"] + s["h"],
        "f+i": s.get("f", 0) + s["h"] * s["p"],
        "o": s.get("m", s.get("f", 0) + s["h"] * s["p"]),
    },
    matmul=True,
    tf32=True,
    atol=LOSSY_SOFTPLUS,
    atomic=("grad of zxbcdt", "grad of conv1d_weight", "grad of conv1d_bias", "grad of A", "grad of dt_bias"),
)

SCANS = (SELECTIVE_SCAN, INNER, STATE_UPDATE, CHUNK_SCAN, SPLIT_CONV_SCAN)
