"""The numbers of parameters in `expected/` are those of the published architectures, counted without memory.

Sizes: Mamba, arXiv 2312.00752, and Mamba-2, arXiv 2405.21060, with the fields of the checkpoints' config.json;
MambaInLlama, arXiv 2408.15237, half of the layers of Llama 3 8B and Llama 3.2 3B converted; the others as config.json
has them.  Not here, because no config was at hand: transformerpp-2.7b (its name), RWKV-5 (7.52B, blog.rwkv.com).
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from scanproof.models.layout import StateSpacesConfig
from scanproof.numbers.expected import reader
from tests.support.late import Late

if TYPE_CHECKING:
    import torch
    import transformers

    from scanproof.models import language_model
    from scanproof.models.mamba_in_llama import config, model
    from scanproof.models.megatron import architecture, conversion
else:
    torch, transformers = Late("torch"), Late("transformers")
    language_model = Late("scanproof.models.language_model")
    config, model = Late("scanproof.models.mamba_in_llama.config"), Late("scanproof.models.mamba_in_llama.model")
    architecture = Late("scanproof.models.megatron.architecture")
    conversion = Late("scanproof.models.megatron.conversion")

EXPECTED = Path(__file__).parents[2] / "expected"
MAMBA2 = {"vocab_size": 50277, "pad_vocab_size_multiple": 16, "ssm_cfg": {"layer": "Mamba2"}}
ATTENTION = {
    "causal": True, "d_conv": 4, "head_dim": 128, "num_heads": 30, "out_proj_bias": False, "qkv_proj_bias": False,
    "rotary_emb_dim": 64,
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
}  # fmt: skip
LLAMA2 = {"vocab_size": 32000, "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32}
LLAMA2_13B = LLAMA2 | {"hidden_size": 5120, "intermediate_size": 13824, "num_hidden_layers": 40}
LLAMA3: dict[str, Any] = {
    "vocab_size": 128256, "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
    "num_attention_heads": 32, "num_key_value_heads": 8, "rms_norm_eps": 1e-5, "hidden_act": "silu",
    "max_position_embeddings": 8192, "tie_word_embeddings": False, "rope_theta": 500000.0, "rope_scaling": None,
}  # fmt: skip
LLAMA32 = LLAMA3 | {
    "hidden_size": 3072, "intermediate_size": 8192, "num_hidden_layers": 28, "num_attention_heads": 24,
    "tie_word_embeddings": True,
}  # fmt: skip
GEMMA = {
    "vocab_size": 256000, "hidden_size": 3072, "intermediate_size": 24576, "num_hidden_layers": 28,
    "num_attention_heads": 16, "num_key_value_heads": 16, "head_dim": 256,
}  # fmt: skip
PYTHIA = {"vocab_size": 50304, "hidden_size": 768, "num_hidden_layers": 12, "intermediate_size": 3072}
PYTHIA_69B = {"vocab_size": 50432, "hidden_size": 4096, "num_hidden_layers": 32, "intermediate_size": 16384}
MAMBA_7B = {"vocab_size": 50432, "hidden_size": 4096, "num_hidden_layers": 64, "tie_word_embeddings": False}
HUB: dict[str, tuple[str, dict[str, Any]]] = {
    "meta-llama/Llama-2-7b-hf": ("llama", LLAMA2),
    "meta-llama/Llama-2-13b-hf": ("llama", LLAMA2_13B | {"num_attention_heads": 40}),
    "meta-llama/Meta-Llama-3-8B": ("llama", LLAMA3),
    "meta-llama/Llama-3.2-3B-Instruct": ("llama", LLAMA32),
    "mistralai/Mistral-7B-v0.1": ("mistral", {"vocab_size": 32000}),
    "google/gemma-7b": ("gemma", GEMMA),
    "EleutherAI/pythia-160m": ("gpt_neox", PYTHIA | {"num_attention_heads": 12}),
    "EleutherAI/pythia-6.9b-deduped": ("gpt_neox", PYTHIA_69B | {"num_attention_heads": 32}),
    "tri-ml/mamba-7b-rw": ("mamba", MAMBA_7B),
}
HYBRIDS: dict[str, tuple[dict[str, Any], int, int | None]] = {
    "JunxiongWang/MambaInLlama_0_50": (LLAMA3, 4096, None),
    "JunxiongWang/Mamba2InLlama_0_50": (LLAMA3, 4096, 32),
    "JunxiongWang/Mamba2InLlama3B_Half": (LLAMA32, 3072, 24),
    "JunxiongWang/Mamba2InLlama3B_Half_DPO": (LLAMA32, 3072, 24),
}
"""Llama's fields, d_inner, and Mamba-2's groups, None for Mamba-1."""
MEGATRON = "nvidia/mamba2-hybrid-8b-3t-4k"
UNCOUNTED = {"state-spaces/transformerpp-2.7b", "RWKV/v5-Eagle-7B-HF"}


def hybrid(fields: dict[str, Any], d_inner: int, groups: int | None) -> Any:
    settings = config.Mamba1Settings() if groups is None else config.Mamba2Settings(ngroups=groups, d_state=128)
    odd = tuple(range(1, fields["num_hidden_layers"], 2))
    return model.HybridLlama(
        config.HybridConfig(llama=fields, d_inner=d_inner, d_xb=1024, attn_layers=odd, ssm=settings)
    )


def nvidia() -> architecture.Architecture:
    return architecture.Architecture(
        hybrid_override_pattern="M-M-M--M-M*-M-M-M-M--M*-M-M-M-M-M*--M-M-M-M-M*-M--M-M-M-", hidden_size=4096,
        num_attention_heads=32, num_query_groups=8, kv_channels=128, ffn_hidden_size=16384,
        max_position_embeddings=4096, norm_epsilon=1e-5, mamba_state_dim=128, mamba_head_dim=64, mamba_num_groups=8,
        mamba_expand=2, mamba_conv=4, mamba_chunk_size=128,
    )  # fmt: skip


def blank(name: str) -> Any:
    if name in STATE_SPACES:
        return language_model.StateSpacesLM(StateSpacesConfig(**STATE_SPACES[name]))
    if name == MEGATRON:
        return conversion.make_blank(conversion.make_nemotron_config(nvidia(), 256000))
    if name in HYBRIDS:
        return hybrid(*HYBRIDS[name])
    kind, fields = HUB[name]
    return transformers.AutoModelForCausalLM.from_config(transformers.AutoConfig.for_model(kind, **fields))


SIZES = {
    value.hub_id: value.job.size.parameters
    for value in reader.load(EXPECTED).numbers
    if value.job.suite == "gpu" and value.job.size is not None
}


@pytest.mark.parametrize("name", sorted({*STATE_SPACES, *HUB, *HYBRIDS, MEGATRON}))
def test_parameters_are_those_of_the_architecture(name: str) -> None:
    with torch.device("meta"):
        made = blank(name)
    assert SIZES[name] == sum(weight.numel() for weight in made.parameters())


def test_every_other_size_is_known_not_to_be_counted() -> None:
    others = set(SIZES) - {*STATE_SPACES, *HUB, *HYBRIDS, MEGATRON}
    assert others == UNCOUNTED, "give a new model's architecture a row above, or name it in UNCOUNTED"
