"""The numbers of parameters in `expected/` are those of the published architectures, counted without memory.

Sizes: Mamba, arXiv 2312.00752, and Mamba-2, arXiv 2405.21060, with the fields of the checkpoints' config.json;
MambaInLlama, arXiv 2408.15237, half of the layers of Llama 3 8B and Llama 3.2 3B converted; the others as config.json
has them.  Not here, because no config was at hand: RWKV-5 (7.52B, blog.rwkv.com).
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from scanproof.models.layout import StateSpacesConfig
from scanproof.numbers.expected import reader
from tests.support import model_shapes
from tests.support.late import Late
from tests.support.published_configs import D_XB, HUB_MAMBA, HYBRIDS, LLAMA3, LLAMA32, MEGATRON, STATE_SPACES

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
LLAMA2 = {"vocab_size": 32000, "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32}
LLAMA2_13B = LLAMA2 | {"hidden_size": 5120, "intermediate_size": 13824, "num_hidden_layers": 40}
GEMMA = {
    "vocab_size": 256000, "hidden_size": 3072, "intermediate_size": 24576, "num_hidden_layers": 28,
    "num_attention_heads": 16, "num_key_value_heads": 16, "head_dim": 256,
}  # fmt: skip
PYTHIA = {"vocab_size": 50304, "hidden_size": 768, "num_hidden_layers": 12, "intermediate_size": 3072}
PYTHIA_69B = {"vocab_size": 50432, "hidden_size": 4096, "num_hidden_layers": 32, "intermediate_size": 16384}
HUB: dict[str, tuple[str, dict[str, Any]]] = {
    "meta-llama/Llama-2-7b-hf": ("llama", LLAMA2),
    "meta-llama/Llama-2-13b-hf": ("llama", LLAMA2_13B | {"num_attention_heads": 40}),
    "meta-llama/Meta-Llama-3-8B": ("llama", LLAMA3),
    "meta-llama/Llama-3.2-3B-Instruct": ("llama", LLAMA32),
    "mistralai/Mistral-7B-v0.1": ("mistral", {"vocab_size": 32000}),
    "google/gemma-7b": ("gemma", GEMMA),
    "EleutherAI/pythia-160m": ("gpt_neox", PYTHIA | {"num_attention_heads": 12}),
    "EleutherAI/pythia-6.9b-deduped": ("gpt_neox", PYTHIA_69B | {"num_attention_heads": 32}),
} | {name: ("mamba", fields) for name, fields in HUB_MAMBA.items()}
UNCOUNTED = {"RWKV/v5-Eagle-7B-HF"}


def hybrid(fields: dict[str, Any], d_inner: int, groups: int | None) -> Any:
    settings = config.Mamba1Settings() if groups is None else config.Mamba2Settings(ngroups=groups, d_state=128)
    odd = tuple(range(1, fields["num_hidden_layers"], 2))
    return model.HybridLlama(
        config.HybridConfig(llama=fields, d_inner=d_inner, d_xb=D_XB, attn_layers=odd, ssm=settings)
    )


def nvidia() -> architecture.Architecture:
    return architecture.Architecture(
        hybrid_override_pattern="M-M-M--M-M*-M-M-M-M--M*-M-M-M-M-M*--M-M-M-M-M*-M--M-M-M-", hidden_size=4096,
        num_attention_heads=32, num_query_groups=8, kv_channels=128, ffn_hidden_size=16384,
        max_position_embeddings=4096, norm_epsilon=1e-5, mamba_state_dim=128, mamba_head_dim=64, mamba_num_groups=8,
        mamba_expand=2, mamba_conv=4, mamba_chunk_size=128,
    )  # fmt: skip


@cache
def blank(name: str) -> Any:
    """The model, with weights that have shapes and no memory."""
    with torch.device("meta"):
        return build(name)


def build(name: str) -> Any:
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
    assert SIZES[name] == sum(weight.numel() for weight in blank(name).parameters())


@pytest.mark.parametrize("name", sorted({*STATE_SPACES, *HYBRIDS, *HUB_MAMBA, MEGATRON}))
def test_the_shapes_that_kernels_are_tested_with_are_those_of_the_architecture(name: str) -> None:
    """The convolutions of its mixers, (d, 1, w), and A, which is (d, n) in Mamba-1 and (h,) in Mamba-2."""
    layers = model_shapes.published_layers(name)
    calls = [shape for layer in layers for op, shape in model_shapes.layer_calls(layer) if op == "causal_conv1d_fn"]
    expected: set[tuple[int, ...]] = {(shape["d"], 1, shape["w"]) for shape in calls}
    expected |= {(layer.d, layer.n) for layer in layers if isinstance(layer, model_shapes.Mamba1Layer)}
    expected |= {(layer.h,) for layer in layers if isinstance(layer, model_shapes.Mamba2Layer)}
    weights = blank(name).named_parameters()
    assert expected == {tuple(weight.shape) for key, weight in weights if key.endswith(("conv1d.weight", ".A_log"))}


def test_every_other_size_is_known_not_to_be_counted() -> None:
    others = set(SIZES) - {*STATE_SPACES, *HUB, *HYBRIDS, MEGATRON}
    assert others == UNCOUNTED, "give a new model's architecture a row above, or name it in UNCOUNTED"
