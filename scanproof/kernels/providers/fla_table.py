"""The rows of fla: its own Triton kernels of operations that are other packages'."""

from __future__ import annotations

from functools import partial

from scanproof.kernels.known import KnownDefect
from scanproof.kernels.providers import fla_kernels
from scanproof.kernels.providers import transformers_forms as forms
from scanproof.kernels.providers.provider import Provider

_fla = partial(Provider, name="fla", distribution="fla-core", places=("interpreter", "gpu"), tuned=True)
_attention = partial(
    _fla,
    function="fla.ops.attn:parallel_attn",
    adapt=fla_kernels.of_attention,
    cannot={"it is causal, with as many keys as queries": fla_kernels.attends_otherwise},
    kernels=("parallel_attn_fwd_kernel",),
)

FLA: tuple[Provider, ...] = (
    _fla(
        operation="causal_conv1d_fn",
        function="fla.modules.causal_conv1d:causal_conv1d",
        adapt=fla_kernels.of_convolution,
        interpreted=(
            "edge-l1-bfloat16", "gradients-w3-l3-float32", "channel_last-w2-l65-float32",
            "states-l2-float32", "packed-bfloat16", "pairwise_1-float32",
        ),
        kernels=("causal_conv1d_fwd_kernel",),
    ),
    _fla(
        operation="causal_conv1d_update",
        function="fla.modules.causal_conv1d:causal_conv1d_update",
        adapt=fla_kernels.of_convolution_step,
        cannot={
            "it takes one new position": fla_kernels.steps_far,
            "it takes no cache_seqlens": forms.passes("cache_seqlens"),
            "it takes no conv_state_indices": forms.passes("conv_state_indices"),
        },
        interpreted=(
            "step-w2-s3-float32", "step-w3-s8-float32", "step-w4-s3-bfloat16", "several-s8-l1-float16",
        ),
        kernels=("causal_conv1d_update_kernel",),
    ),
    _fla(
        operation="layer_norm_fn",
        function="fla.modules.norm.layernorm:layer_norm",
        adapt=fla_kernels.of_norm,
        interpreted=(
            "edge-d7-float32", "edge-d100-bfloat16", "residual-float32", "block-d100-bfloat16", "empty_batch-float32",
            "first_in_fp32-bfloat16", "pairwise_3-float32",
        ),
    ),
    _fla(
        operation="rms_norm_fn",
        function="fla.modules.norm.layernorm:rms_norm",
        adapt=fla_kernels.of_norm,
        interpreted=(
            "one_channel-float32", "edge-d100-float32", "residual-d64-bfloat16", "residual_in_fp32-d100-bfloat16",
            "bias-float32",
        ),
    ),
    _fla(
        operation="rmsnorm_fn",
        function="fla.modules.norm.layernorm_gated:rmsnorm_fn",
        interpreted=(
            "edge-d7-float32", "gate_first-bfloat16", "grouped-float32", "grouped_gate_last-bfloat16", "bias-float32",
            "empty_batch-float32",
        ),
        kernels=("layer_norm_fwd_kernel_group",),
    ),
    _fla(
        operation="rmsnorm_fn",
        name="fla.fused_norm_gate",
        function="fla.modules.norm.fused_norm_gate:rms_norm_gated",
        adapt=fla_kernels.of_gated_norm,
        cannot={
            "it gates after the norm only": fla_kernels.gates_first,
            "it takes no norm without a gate": fla_kernels.has_no_gate,
            "it norms all channels together": fla_kernels.has_group_norms,
        },
        interpreted=("edge-d7-float32", "edge-d100-bfloat16", "bias-float32"),
    ),
    _fla(
        operation="mamba_chunk_scan_combined",
        function="fla.ops.simple_gla:chunk_simple_gla",
        adapt=fla_kernels.of_duality,
        cannot={"it takes no chunk_size that is no power of two": fla_kernels.has_odd_chunks},
        interpreted=(
            "edge-l1-float32", "edge-l64-bfloat16", "gradients-l33-bfloat16", "states-l70-float32",
            "packed_states-bfloat16", "packed_initial_short-float32", "empty_sequences-float32", "tiny_steps-float32",
        ),
        kernels=("chunk_fwd_kernel_o",),
    ),
    _fla(
        operation="mamba_chunk_scan_combined",
        name="fla.fused_recurrent",
        function="fla.ops.simple_gla:fused_recurrent_simple_gla",
        adapt=fla_kernels.of_duality_without_chunks,
        interpreted=("edge-l31-float32",),
        kernels=("fused_recurrent_fwd_kernel",),
    ),
    _fla(
        operation="selective_state_update",
        function="fla.ops.simple_gla:fused_recurrent_simple_gla",
        adapt=fla_kernels.of_step,
        cannot={
            "it takes one decay and one step for a head": fla_kernels.has_steps_of_channels,
            "it takes no state_batch_indices": forms.passes("state_batch_indices"),
        },
        interpreted=("tied-float32", "tied-bfloat16", "steps_tied-float32", "model_dtype-bfloat16"),
        kernels=("fused_recurrent_fwd_kernel",),
    ),
    _attention(
        operation="flash_attn_func",
        interpreted=("one_key-l1-bfloat16", "window-float16"),
    ),
    _attention(operation="flash_attn_varlen_func", interpreted=("pairwise_1-bfloat16",)),
    _fla(
        operation="apply_rotary_emb",
        function="fla.modules.rotary:rotary_embedding",
        adapt=fla_kernels.of_rotation,
        interpreted=(
            "edge-l65-float32", "offsets-r24-float32", "offsets-r64-bfloat16", "interleaved-r24-bfloat16",
            "inplace-float32", "layout-float32", "packed-float32", "packed_offsets-bfloat16",
            "empty_sequences-float32", "empty_batch-float32",
        ),
        kernels=("rotary_embedding_kernel",),
        cannot={"it takes no x without positions": fla_kernels.has_no_position},
        known={
            f"inplace-{dtype}": KnownDefect("what is not contiguous stays as it was (docs/defects.md)", {"x": 0.9}, {})
            for dtype in ("float32", "float16", "bfloat16")
        },
    ),
)  # fmt: skip
