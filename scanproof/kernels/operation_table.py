"""The table of operations: one row each.

A new operation is a reference, a row here with its cost (`scanproof.kernels.costs`), and its cases in `cases.yaml`.
"""

from __future__ import annotations

from scanproof.kernels import costs
from scanproof.kernels.inputs import Argument, Output
from scanproof.kernels.operation import CUDA_ONLY, FLOAT32, HALVES, LOSSY_SOFTPLUS, Op, fixed, optional
from scanproof.kernels.references import attention, convolution, mamba1, mamba2, norms

SELECTIVE_SCAN = Op(
    name="selective_scan_fn",
    package="mamba-ssm",
    module="mamba_ssm.ops.selective_scan_interface",
    reference=mamba1.selective_scan_fn,
    arguments=(
        Argument("u", "b d l"),
        Argument("delta", "b d l"),
        Argument("A", "d n", "decay", FLOAT32),
        Argument("B", "b g n l"),
        Argument("C", "b g n l"),
        optional("D", "d", "normal", FLOAT32),
        optional("z", "b d l"),
        optional("delta_bias", "d", "step_bias", FLOAT32),
    ),
    outputs=(
        Output("out", "b d l"),
        Output("last_state", "b d n", FLOAT32, "return_last_state", differentiable=False),
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
        Argument("xz", "b 2d l"),
        Argument("conv1d_weight", "d 1 w", "weight"),
        Argument("conv1d_bias", "d"),
        Argument("x_proj_weight", "x d", "weight"),
        Argument("delta_proj_weight", "d r", "weight"),
        Argument("out_proj_weight", "m d", "weight"),
        # The models' blocks have none, and the operation has to be given one or None.
        Argument("out_proj_bias", "", "none"),
        Argument("A", "d n", "decay", FLOAT32),
        optional("B", "d n"),
        optional("C", "d n"),
        Argument("D", "d", "normal", FLOAT32),
        Argument("delta_bias", "d", "step_bias", FLOAT32),
    ),
    outputs=(Output("out", "b l m"),),
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
        Argument("state", "N h p n"),
        Argument("x", "b h p"),
        Argument("dt", "b h p"),
        Argument("A", "h p n", "decay", FLOAT32),
        Argument("B", "b g n"),
        Argument("C", "b g n"),
        # Without these two the operation of mamba-ssm 2.3.2 cannot be called: it unpacks their strides.
        Argument("D", "h p", "normal", FLOAT32),
        Argument("dt_bias", "h p", "step_bias", FLOAT32),
        optional("z", "b h p"),
        fixed("state_batch_indices", "b", "rows"),
    ),
    outputs=(Output("out", "b h p"), Output("state", "N h p n")),
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
        Argument("x", "b l h p"),
        Argument("dt", "b l h"),
        Argument("A", "h", "decay", FLOAT32),
        Argument("B", "b l g n"),
        Argument("C", "b l g n"),
        optional("D", "h", "normal", FLOAT32),
        optional("z", "b l h p"),
        optional("dt_bias", "h", "step_bias", FLOAT32),
        optional("initial_states", "b h p n"),
        fixed("seq_idx", "b l", "seq_idx"),
        fixed("cu_seqlens", "S+1", "cu_seqlens"),
    ),
    outputs=(
        Output("out", "b l h p"),
        Output("final_states", "b h p n", FLOAT32, "return_final_states"),
        Output("varlen_states", "S h p n", "input", "return_varlen_states", differentiable=False),
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
        Argument("zxbcdt", "b l e"),
        Argument("conv1d_weight", "c w", "weight"),
        Argument("conv1d_bias", "c"),
        Argument("dt_bias", "h", "step_bias", FLOAT32),
        Argument("A", "h", "decay", FLOAT32),
        Argument("D", "h", "normal", FLOAT32),
        optional("initial_states", "b h p n"),
        fixed("seq_idx", "b l", "seq_idx"),
        optional("rmsnorm_weight", "i", "near_one"),
        optional("outproj_weight", "m i", "weight"),
        optional("outproj_bias", "m"),
    ),
    outputs=(Output("out", "b l o"), Output("final_states", "b h p n", FLOAT32, "return_final_states")),
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
        Argument("x", "b d l"),
        Argument("weight", "d w", "weight"),
        optional("bias", "d"),
        fixed("seq_idx", "b l", "seq_idx"),
        optional("initial_states", "b d w-1"),
    ),
    outputs=(Output("out", "b d l"), Output("final_states", "b d w-1", "input", "return_final_states")),
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
        Argument("x", "b d l"),
        Argument("conv_state", "N d s"),
        Argument("weight", "d w", "weight"),
        optional("bias", "d"),
        fixed("cache_seqlens", "b", "counts"),
        fixed("conv_state_indices", "b", "rows"),
    ),
    outputs=(Output("out", "b d l"), Output("conv_state", "N d s")),
    flop=costs.convolution,
    changes=("conv_state",),
    interpreter=CUDA_ONLY,
)

ATTENTION = Op(
    name="flash_attn_func",
    package="flash-attn",
    module="flash_attn",
    reference=attention.flash_attn_func,
    arguments=(Argument("q", "b l q p"), Argument("k", "b m k p"), Argument("v", "b m k p")),
    outputs=(Output("out", "b l q p"),),
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
        Argument("q", "l q p"),
        Argument("k", "l k p"),
        Argument("v", "l k p"),
        fixed("cu_seqlens_q", "S+1", "cu_seqlens", optional=False),
        fixed("cu_seqlens_k", "S+1", "cu_seqlens", optional=False),
        fixed("max_seqlen_q", "1", "longest", optional=False),
        fixed("max_seqlen_k", "1", "longest", optional=False),
    ),
    outputs=(Output("out", "l q p"),),
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
        Argument("q", "b l q p"),
        Argument("k_cache", "N m k p"),
        Argument("v_cache", "N m k p"),
        optional("k", "b l k p"),
        optional("v", "b l k p"),
        fixed("cache_seqlens", "b", "filled"),
        fixed("cache_batch_idx", "b", "rows"),
    ),
    outputs=(
        Output("out", "b l q p"),
        Output("k_cache", "N m k p", moved="b l k p"),
        Output("v_cache", "N m k p", moved="b l k p"),
    ),
    flop=costs.attention,
    changes=("k_cache", "v_cache"),
    dtypes=HALVES,
    matmul=True,
    interpreter=CUDA_ONLY,
)

_FUSED = (
    Argument("x", "b l d"),
    Argument("weight", "d", "near_one"),
    optional("residual", "b l d"),
)
_NORM_OUTPUTS = (Output("out", "b l d"), Output("residual", "b l d", "input", "prenorm"))

LAYER_NORM = Op(
    name="layer_norm_fn",
    package="mamba-ssm",
    module="mamba_ssm.ops.triton.layer_norm",
    reference=norms.layer_norm_fn,
    arguments=(*_FUSED, Argument("bias", "d")),
    outputs=_NORM_OUTPUTS,
    flop=costs.norm,
    backward_flop=costs.norm_backward,
)

RMS_NORM = Op(
    name="rms_norm_fn",
    package="mamba-ssm",
    module="mamba_ssm.ops.triton.layer_norm",
    reference=norms.rms_norm_fn,
    arguments=(*_FUSED, Argument("bias", "", "none")),
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
        Argument("x", "b l d"),
        Argument("weight", "d", "near_one"),
        Argument("bias", "", "none"),
        optional("z", "b l d"),
    ),
    outputs=(Output("out", "b l d"),),
    flop=costs.norm,
    backward_flop=costs.norm_backward,
)

OPS: tuple[Op, ...] = (
    SELECTIVE_SCAN, INNER, STATE_UPDATE, CHUNK_SCAN, SPLIT_CONV_SCAN, CONVOLUTION, CONVOLUTION_UPDATE,
    ATTENTION, ATTENTION_VARLEN, ATTENTION_CACHE, LAYER_NORM, RMS_NORM, GATED_NORM,
)  # fmt: skip


def named(name: str) -> Op:
    """The row of an operation; KeyError lists those there are."""
    for op in OPS:
        if op.name == name:
            return op
    raise KeyError(f"no operation {name!r}; there are {', '.join(op.name for op in OPS)}")
