"""The table of other implementations: one row for each operation and implementation."""

from __future__ import annotations

from functools import partial

from scanproof.kernels.known import KnownDefect
from scanproof.kernels.providers import transformers_forms as forms
from scanproof.kernels.providers.fla_table import FLA
from scanproof.kernels.providers.provider import Provider

_MAMBA1 = "transformers.models.mamba.modeling_mamba"
_MAMBA2 = "transformers.models.mamba2.modeling_mamba2"
_QWEN = "transformers.models.qwen3_next.modeling_qwen3_next"
# Without the decorators that put a kernel of the hub, or of mamba-ssm, in a form's place.
_form = partial(Provider, distribution="transformers", unwrap=True, places=("cpu",))
_mamba1 = partial(_form, name="transformers.mamba")
_mamba2 = partial(_form, name="transformers.mamba2")
_qwen = partial(_form, name="transformers.qwen3_next", renames={"q": "query", "k": "key", "v": "value"})
_NO_DELTA = {
    "it leaves cu_seqlens out of account, which its wrapper refuses": forms.passes("cu_seqlens"),
    "it leaves scale out of account": forms.passes("scale"),
    "it leaves state_v_first out of account": forms.passes("state_v_first"),
    "it leaves out of account how to make g and beta": forms.passes("use_gate_in_kernel", "use_beta_sigmoid_in_kernel"),
}
_ROUNDED = "it rounds its steps, after softplus, to the dtype of its input"
_STEP = {"x": "hidden_states"}
_NO_INDICES = {"it leaves state_batch_indices out of account": forms.passes("state_batch_indices")}
_NO_STATES = {
    "it leaves seq_idx out of account": forms.passes("seq_idx"),
    "it takes and returns no states": forms.passes("initial_states", "return_final_states"),
}
_NO_RING = {
    "it takes no cache_seqlens": forms.passes("cache_seqlens"),
    "it takes no conv_state_indices": forms.passes("conv_state_indices"),
    "it takes no x without positions": forms.is_one_position,
}

_TRANSFORMERS: tuple[Provider, ...] = (
    _qwen(
        operation="chunk_gated_delta_rule",
        function=f"{_QWEN}:torch_chunk_gated_delta_rule",
        cannot={"it takes no batch without rows": forms.is_empty, **_NO_DELTA},
    ),
    _qwen(
        operation="fused_recurrent_gated_delta_rule",
        function=f"{_QWEN}:torch_recurrent_gated_delta_rule",
        cannot=_NO_DELTA,
    ),
    _mamba1(
        operation="selective_scan_fn",
        function=f"{_MAMBA1}:mamba_selective_scan",
        adapt=forms.of_scan,
        cannot={
            "it takes no complex A": forms.is_complex,
            "it takes one group of B and C": forms.has_groups,
            "it takes no B and C that are the same at every position": forms.has_constant,
            f"{_ROUNDED}: errors of up to 2.9 times what is allowed": forms.is_half,
        },
        known={"tiny_steps-float16": KnownDefect(f"{_ROUNDED}; 8 and 11 times", {}, {"out": 16, "last_state": 22})},
    ),
    _mamba1(
        operation="selective_state_update",
        function=f"{_MAMBA1}:mamba_selective_state_update",
        renames=_STEP,
        cannot={"it takes no heads": forms.has_heads, **_NO_INDICES},
        known={
            "mamba1_float32_state-float16": KnownDefect(f"{_ROUNDED}; 29 times", {}, {"state": 60}),
            "mamba1_float32_state-bfloat16": KnownDefect(f"{_ROUNDED}; 120 times", {}, {"state": 240}),
        },
    ),
    _mamba2(
        operation="selective_state_update",
        function=f"{_MAMBA2}:mamba2_selective_state_update",
        renames=_STEP,
        cannot={
            "it takes heads only": forms.has_no_heads,
            **_NO_INDICES,
            f"{_ROUNDED}: 1.2 times what is allowed": forms.rounds_much,
        },
    ),
    _mamba2(
        operation="mamba_chunk_scan_combined",
        function=f"{_MAMBA2}:mamba2_chunk_scan",
        adapt=forms.of_duality,
        cannot={
            "it takes no batch without rows": forms.is_empty,
            "it takes one number of D for a head": forms.has_skips_of_channels,
            "it leaves z out of account (docs/defects.md)": forms.passes("z"),
            "it leaves seq_idx and cu_seqlens out of account": forms.passes("seq_idx", "cu_seqlens"),
            f"{_ROUNDED}: states of up to 1.4 times the error that is allowed": forms.returns_states_in_half,
        },
    ),
    _mamba1(
        operation="causal_conv1d_fn", function=f"{_MAMBA1}:causal_conv1d_fn", renames=_STEP, cannot=_NO_STATES
    ),
    _mamba2(
        operation="causal_conv1d_fn", function=f"{_MAMBA2}:causal_conv1d_fn", renames=_STEP, cannot=_NO_STATES
    ),
    _mamba1(
        operation="causal_conv1d_update", function=f"{_MAMBA1}:causal_conv1d_update", renames=_STEP, cannot=_NO_RING
    ),
    _mamba2(
        operation="causal_conv1d_update", function=f"{_MAMBA2}:causal_conv1d_update", renames=_STEP, cannot=_NO_RING
    ),
    _mamba2(
        operation="rmsnorm_fn",
        function=f"{_MAMBA2}:MambaRMSNormGated",
        adapt=forms.of_gated_norm,
        cannot={"it gates before the norm only": forms.gates_last, "it takes no bias": forms.has_bias},
    ),
    _form(
        name="transformers.llama",
        operation="apply_rotary_emb",
        function="transformers.models.llama.modeling_llama:apply_rotary_pos_emb",
        adapt=forms.of_rotation,
        cannot={
            "it pairs channels that are half of those rotated apart": forms.passes("interleaved"),
            "it leaves cu_seqlens out of account": forms.passes("cu_seqlens"),
            "it rotates in a tensor of its own": forms.passes("inplace"),
        },
    ),
    *(
        row(
            operation="rms_norm_fn",
            function=function,
            adapt=forms.of_norm,
            cannot={
                "it takes no residual, and returns none": forms.passes("residual", "prenorm"),
                "it takes no bias": forms.has_bias,
            },
        )
        for row, function in ((_mamba1, f"{_MAMBA1}:MambaRMSNorm"), (_mamba2, f"{_MAMBA2}:Mamba2RMSNorm"))
    ),
)  # fmt: skip

PROVIDERS: tuple[Provider, ...] = (*_TRANSFORMERS, *FLA)
