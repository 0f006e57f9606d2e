"""The table of operations under test: one row each.

A new operation needs a reference (`scanproof.kernels.references`), a row here, its cost (`scanproof.kernels.costs`),
its kernels (`scanproof.kernels.launches.kernel_table`), and cases in `cases.yaml`.  Axes are letters, explained there.
"""

from __future__ import annotations

from scanproof.kernels import costs
from scanproof.kernels.inputs import ArgumentSpec, OutputSpec
from scanproof.kernels.operation import (
    CUDA_ONLY,
    FLOAT32,
    HALVES,
    LOSSY_SOFTPLUS,
    Op,
    integer_argument,
    optional_argument,
)
from scanproof.kernels.references import attention, convolution, mamba1, mamba2, norms

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
    ),
    outputs=(OutputSpec("out", "b l m"),),
    flop=costs.inner,
    backward_flop=costs.inner_backward,
    derived=lambda s: {"2d": 2 * s["d"], "x": s["r"] + 2 * s["n"]},
    matmul=True,
    interpreter=CUDA_ONLY,
    atomic=(
        "grad of xz", "grad of conv1d_weight", "grad of conv1d_bias", "grad of x_proj_weight", "grad of A",
        "grad of delta_proj_weight", "grad of B", "grad of C", "grad of D", "grad of delta_bias",
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
        optional_argument("outproj_weight", "m i", "weight"),
        optional_argument("outproj_bias", "m"),
    ),
    outputs=(OutputSpec("out", "b l o"), OutputSpec("final_states", "b h p n", FLOAT32, "return_final_states")),
    flop=costs.split_conv_scan,
    backward_flop=costs.split_conv_scan_backward,
    derived=lambda s: {
        "i": s["h"] * s["p"],
        "c": s["h"] * s["p"] + 2 * s["g"] * s["n"],
        "e": 2 * s["h"] * s["p"] + 2 * s["g"] * s["n"] + s["h"],
        "o": s.get("m", s["h"] * s["p"]),
    },
    matmul=True,
    tf32=True,
    atol=LOSSY_SOFTPLUS,
    atomic=("grad of zxbcdt", "grad of conv1d_weight", "grad of conv1d_bias", "grad of A", "grad of dt_bias"),
)

CONVOLUTION = Op(
    name="causal_conv1d_fn",
    package="causal-conv1d",
    module="causal_conv1d",
    reference=convolution.causal_conv1d_fn,
    arguments=(
        ArgumentSpec("x", "b d l"),
        ArgumentSpec("weight", "d w", "weight"),
        optional_argument("bias", "d"),
        integer_argument("seq_idx", "b l", "seq_idx"),
        optional_argument("initial_states", "b d w-1"),
    ),
    outputs=(OutputSpec("out", "b d l"), OutputSpec("final_states", "b d w-1", "input", "return_final_states")),
    flop=costs.convolution,
    backward_flop=costs.convolution_backward,
    derived=lambda s: {"w-1": s["w"] - 1},
    interpreter=CUDA_ONLY,
    atomic=("grad of weight", "grad of bias"),
)

CONVOLUTION_UPDATE = Op(
    name="causal_conv1d_update",
    package="causal-conv1d",
    module="causal_conv1d",
    reference=convolution.causal_conv1d_update,
    arguments=(
        ArgumentSpec("x", "b d l"),
        ArgumentSpec("conv_state", "N d s"),
        ArgumentSpec("weight", "d w", "weight"),
        optional_argument("bias", "d"),
        integer_argument("cache_seqlens", "b", "counts"),
        integer_argument("conv_state_indices", "b", "rows"),
    ),
    outputs=(OutputSpec("out", "b d l"), OutputSpec("conv_state", "N d s")),
    flop=costs.convolution,
    changes=("conv_state",),
    interpreter=CUDA_ONLY,
)

ATTENTION = Op(
    name="flash_attn_func",
    package="flash-attn",
    module="flash_attn",
    reference=attention.flash_attn_func,
    arguments=(ArgumentSpec("q", "b l q p"), ArgumentSpec("k", "b m k p"), ArgumentSpec("v", "b m k p")),
    outputs=(OutputSpec("out", "b l q p"),),
    flop=costs.attention,
    backward_flop=costs.attention_backward,
    dtypes=HALVES,
    matmul=True,
    interpreter=CUDA_ONLY,
    atomic=("grad of q", "grad of k", "grad of v"),
)

ATTENTION_VARLEN = Op(
    name="flash_attn_varlen_func",
    package="flash-attn",
    module="flash_attn",
    reference=attention.flash_attn_varlen_func,
    arguments=(
        ArgumentSpec("q", "l q p"),
        ArgumentSpec("k", "l k p"),
        ArgumentSpec("v", "l k p"),
        integer_argument("cu_seqlens_q", "S+1", "cu_seqlens", optional=False),
        integer_argument("cu_seqlens_k", "S+1", "cu_seqlens", optional=False),
        integer_argument("max_seqlen_q", "1", "longest", optional=False),
        integer_argument("max_seqlen_k", "1", "longest", optional=False),
    ),
    outputs=(OutputSpec("out", "l q p"),),
    flop=costs.attention,
    backward_flop=costs.attention_backward,
    derived=lambda s: {"S+1": s["S"] + 1},
    dtypes=HALVES,
    matmul=True,
    interpreter=CUDA_ONLY,
    atomic=("grad of q", "grad of k", "grad of v"),
)

ATTENTION_CACHE = Op(
    name="flash_attn_with_kvcache",
    package="flash-attn",
    module="flash_attn",
    reference=attention.flash_attn_with_kvcache,
    arguments=(
        ArgumentSpec("q", "b l q p"),
        ArgumentSpec("k_cache", "N m k p"),
        ArgumentSpec("v_cache", "N m k p"),
        optional_argument("k", "b l k p"),
        optional_argument("v", "b l k p"),
        integer_argument("cache_seqlens", "b", "filled"),
        integer_argument("cache_batch_idx", "b", "rows"),
    ),
    outputs=(
        OutputSpec("out", "b l q p"),
        OutputSpec("k_cache", "N m k p", moved="b l k p"),
        OutputSpec("v_cache", "N m k p", moved="b l k p"),
    ),
    flop=costs.attention,
    changes=("k_cache", "v_cache"),
    dtypes=HALVES,
    matmul=True,
    interpreter=CUDA_ONLY,
)

_FUSED = (
    ArgumentSpec("x", "b l d"),
    ArgumentSpec("weight", "d", "near_one"),
    optional_argument("residual", "b l d"),
)
_NORM_OUTPUTS = (OutputSpec("out", "b l d"), OutputSpec("residual", "b l d", "input", "prenorm"))

LAYER_NORM = Op(
    name="layer_norm_fn",
    package="mamba-ssm",
    module="mamba_ssm.ops.triton.layer_norm",
    reference=norms.layer_norm_fn,
    arguments=(*_FUSED, ArgumentSpec("bias", "d")),
    outputs=_NORM_OUTPUTS,
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

OPS: tuple[Op, ...] = (
    SELECTIVE_SCAN, INNER, STATE_UPDATE, CHUNK_SCAN, SPLIT_CONV_SCAN, CONVOLUTION, CONVOLUTION_UPDATE,
    ATTENTION, ATTENTION_VARLEN, ATTENTION_CACHE, LAYER_NORM, RMS_NORM, GATED_NORM,
)  # fmt: skip


def find_operation(name: str) -> Op:
    """The row of an operation.

    Raises:
        KeyError: there is no such operation; the message lists all names.
    """
    for op in OPS:
        if op.name == name:
            return op
    raise KeyError(f"no operation {name!r}; there are {', '.join(op.name for op in OPS)}")
