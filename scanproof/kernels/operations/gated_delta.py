"""The gated delta rule, in chunks and step by step."""

from __future__ import annotations

from scanproof.kernels import costs
from scanproof.kernels.inputs import ArgumentSpec, OutputSpec
from scanproof.kernels.operation import FLOAT32, Op, optional_argument
from scanproof.kernels.references import gated_delta

_DELTA = (
    ArgumentSpec("q", "b l g n"),
    # As models have them: of length 1, which `use_qk_l2norm_in_kernel` makes them.
    ArgumentSpec("k", "b l g n", "unit"),
    ArgumentSpec("v", "b l h p"),
    ArgumentSpec("g", "b l h", "log_gate", FLOAT32),
    ArgumentSpec("beta", "b l h", "share"),
    optional_argument("initial_state", "b h n p", "normal", FLOAT32),
    optional_argument("A_log", "h", "log_of_decay", FLOAT32),
    optional_argument("dt_bias", "h", "step_bias", FLOAT32),
    ArgumentSpec("cu_seqlens", "S+1", "cu_seqlens", "int64", optional=True, differentiable=False),
)
_DELTA_OUTPUTS = (OutputSpec("o", "b l h p"), OutputSpec("final_state", "b h n p", FLOAT32, "output_final_state"))

RECURRENT_DELTA = Op(
    name="fused_recurrent_gated_delta_rule",
    package="fla-core",
    module="fla.ops.gated_delta_rule",
    reference=gated_delta.fused_recurrent_gated_delta_rule,
    arguments=_DELTA,
    outputs=_DELTA_OUTPUTS,
    derived=lambda s: {"S+1": s["S"] + 1},
    flop=costs.delta_recurrence,
)

CHUNK_DELTA = Op(
    name="chunk_gated_delta_rule",
    package="fla-core",
    module="fla.ops.gated_delta_rule",
    reference=gated_delta.chunk_gated_delta_rule,
    arguments=_DELTA,
    outputs=_DELTA_OUTPUTS,
    derived=lambda s: {"S+1": s["S"] + 1},
    flop=costs.delta_chunks,
    backward_flop=costs.delta_chunks_backward,
    matmul=True,
    tf32=True,
)

DELTA_RULES = (RECURRENT_DELTA, CHUNK_DELTA)
