"""Configurations of the published checkpoints, by hub id, as their own files on the Hugging Face hub have them.

Seen in public copies of those files: config.json of state-spaces/transformerpp-2.7b and state-spaces/mamba2-2.7b,
brunopio/mamba2attn-2.7b (a copy of state-spaces/mamba2attn-2.7b; Tri Dao on its 30 heads: state-spaces/mamba issue
457), TRI-ML/mamba-7b-rw, mlx-community/mamba-130m-hf-f16 and mamba-2.8b-hf-f32; mamba_config.json of
JunxiongWang/Mamba2InLlama_0_75, Llama3.2-Mamba2-3B-dpo and Llama3.1-Mamba-8B-distill, which differ from the models here
in the layers that are attention.  NVIDIA's hybrid: `scanproof/models/megatron/known.yaml`, which names its sources.

QWEN is of a model that no document has: the operations of its layers are called by nobody else here.
"""

from __future__ import annotations

from typing import Any

MAMBA2 = {"vocab_size": 50277, "pad_vocab_size_multiple": 16, "ssm_cfg": {"layer": "Mamba2"}}
ATTENTION = {
    "causal": True, "d_conv": 4, "head_dim": 128, "num_heads": 30, "out_proj_bias": False, "qkv_proj_bias": False,
    "rotary_emb_dim": 64,
}  # fmt: skip
TRANSFORMERPP = {
    "causal": True, "head_dim": 80, "num_heads": 32, "out_proj_bias": False, "qkv_proj_bias": False,
    "rotary_emb_dim": 40,
}  # fmt: skip
STATE_SPACES: dict[str, dict[str, Any]] = {
    "state-spaces/mamba-130m": {"d_model": 768, "n_layer": 24, "vocab_size": 50277},
    "state-spaces/mamba-370m": {"d_model": 1024, "n_layer": 48, "vocab_size": 50277},
    "state-spaces/mamba-790m": {"d_model": 1536, "n_layer": 48, "vocab_size": 50277},
    "state-spaces/mamba-1.4b": {"d_model": 2048, "n_layer": 48, "vocab_size": 50277},
    "state-spaces/mamba-2.8b": {"d_model": 2560, "n_layer": 64, "vocab_size": 50277},
    "state-spaces/mamba-2.8b-slimpj": {"d_model": 2560, "n_layer": 64, "vocab_size": 50277},
    "state-spaces/mamba2-2.7b": {"d_model": 2560, "n_layer": 64, **MAMBA2},
    "state-spaces/mamba2attn-2.7b": {
        "d_model": 2560, "n_layer": 64, "attn_layer_idx": [9, 18, 27, 36, 45, 56], "attn_cfg": ATTENTION, **MAMBA2,
    },
    "state-spaces/transformerpp-2.7b": {
        "d_model": 2560, "d_intermediate": 6912, "n_layer": 32, "vocab_size": 50277, "pad_vocab_size_multiple": 16,
        "attn_layer_idx": [*range(32)], "attn_cfg": TRANSFORMERPP,
    },
}  # fmt: skip
"""Fields of `StateSpacesConfig`."""
LLAMA3: dict[str, Any] = {
    "vocab_size": 128256, "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
    "num_attention_heads": 32, "num_key_value_heads": 8, "rms_norm_eps": 1e-5, "hidden_act": "silu",
    "max_position_embeddings": 8192, "tie_word_embeddings": False, "rope_theta": 500000.0, "rope_scaling": None,
}  # fmt: skip
LLAMA32 = LLAMA3 | {
    "hidden_size": 3072, "intermediate_size": 8192, "num_hidden_layers": 28, "num_attention_heads": 24,
    "tie_word_embeddings": True,
}  # fmt: skip
HYBRIDS: dict[str, tuple[dict[str, Any], int, int | None]] = {
    "JunxiongWang/MambaInLlama_0_50": (LLAMA3, 4096, None),
    "JunxiongWang/Mamba2InLlama_0_50": (LLAMA3, 4096, 32),
    "JunxiongWang/Mamba2InLlama3B_Half": (LLAMA32, 3072, 24),
    "JunxiongWang/Mamba2InLlama3B_Half_DPO": (LLAMA32, 3072, 24),
}
"""Llama's fields, d_inner, and Mamba-2's groups, None for Mamba-1."""
D_XB = 1024
"""Channels of x, and of B, before they are repeated: the same in all of them."""
HUB_MAMBA: dict[str, dict[str, Any]] = {
    "tri-ml/mamba-7b-rw": {
        "vocab_size": 50432, "hidden_size": 4096, "num_hidden_layers": 64, "tie_word_embeddings": False,
        "intermediate_size": 8192, "state_size": 16, "conv_kernel": 4, "time_step_rank": 256,
    },
}  # fmt: skip
"""Fields of transformers' MambaConfig."""
MEGATRON = "nvidia/mamba2-hybrid-8b-3t-4k"
MODULES: dict[str, dict[str, Any]] = {
    "mamba_ssm.modules.mamba3.Mamba3": {
        "d_model": 1024, "d_state": 128, "expand": 2, "headdim": 64, "ngroups": 1, "rope_fraction": 0.5,
        "chunk_size": 64,
    },
}  # fmt: skip
"""Modules of which no published model has numbers here, as they are initialized: the defaults of mamba-ssm 2.3.2.post1.
d_model has none; 1024 gives the 32 heads that the notes of `mamba3_siso_combined` name."""
QWEN: dict[str, dict[str, Any]] = {
    # config.json of the checkpoint, whose values are the defaults of transformers' Qwen3NextConfig.
    "Qwen/Qwen3-Next-80B-A3B-Instruct": {
        "hidden_size": 2048, "linear_conv_kernel_dim": 4, "linear_key_head_dim": 128, "linear_num_key_heads": 16,
        "linear_num_value_heads": 32, "linear_value_head_dim": 128,
    },
}  # fmt: skip
