"""The convolutions, their update and their states."""

from __future__ import annotations

from scanproof.kernels import costs
from scanproof.kernels.inputs import ArgumentSpec, OutputSpec
from scanproof.kernels.operation import CUDA_ONLY, Op, integer_argument, optional_argument
from scanproof.kernels.references import convolution

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

CONVOLUTION_STATES = Op(
    name="causal_conv1d_varlen_states",
    package="causal-conv1d",
    module="causal_conv1d.causal_conv1d_varlen",
    reference=convolution.causal_conv1d_varlen_states,
    arguments=(
        ArgumentSpec("x", "l d", moved="S d s"),
        integer_argument("cu_seqlens", "S+1", "cu_seqlens", optional=False),
        integer_argument("state_len", "1", "state_len", optional=False),
    ),
    outputs=(OutputSpec("states", "S d s"),),
    derived=lambda s: {"S+1": s["S"] + 1},
    flop=costs.copied_states,
)

CONVOLUTIONS = (CONVOLUTION, CONVOLUTION_UPDATE, CONVOLUTION_STATES)
