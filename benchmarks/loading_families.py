"""The rows of `benchmarks/loading.py`: how a random checkpoint of each family is made, and how it is loaded."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import transformers_copy
from torch import nn

VOCABULARY = 32_000
WIDTH = 1024
Load = Callable[[Path, torch.dtype], Any]
Make = Callable[[Path, Path, int, torch.dtype], None]


@dataclass(frozen=True)
class Family:
    """One row of the table."""

    name: str
    make: Make
    """(folder of ours, folder of transformers', bytes, dtype): writes both, about as large as asked for."""
    load: Load


def transformers_load(folder: Path, dtype: torch.dtype) -> Any:
    """What all are compared with."""
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)


def weight_bytes(model: nn.Module, dtype: torch.dtype) -> int:
    """Bytes of the weights in a dtype; a tied weight counts once."""
    return sum(weight.numel() for weight in model.parameters()) * dtype.itemsize


def depth(size: int, dtype: torch.dtype, of_depth: Callable[[int], nn.Module]) -> int:
    """Layers (or repeats of a pattern) that make a model of about `size` bytes, at least 1."""
    with torch.device("meta"):
        one, two = (weight_bytes(of_depth(count), dtype) for count in (1, 2))
    return max(1, 1 + round((size - one) / (two - one)))


def make_state_spaces(ssm_cfg: dict[str, Any]) -> Make:
    """Mamba-1 or Mamba-2, the head tied to the embedding as in the published checkpoints."""

    def make(ours: Path, theirs: Path, size: int, dtype: torch.dtype) -> None:
        from scanproof.models.language_model import StateSpacesLM
        from scanproof.models.layout import StateSpacesConfig
        from scanproof.models.loading import save

        def model(layers: int) -> StateSpacesLM:
            return StateSpacesLM(
                StateSpacesConfig(d_model=WIDTH, n_layer=layers, vocab_size=VOCABULARY, ssm_cfg=ssm_cfg)
            )

        save(model(depth(size, dtype, model)), ours, dtype)
        transformers_copy.write(ours, theirs)
        # `save` keeps the tied head beside the embedding; published safetensors do not, nor does transformers.
        transformers_copy.drop_head(ours)

    return make


def load_state_spaces(folder: Path, dtype: torch.dtype) -> Any:
    from scanproof.models.loading import load

    return load(folder, dtype)


def llama_fields(layers: int) -> dict[str, Any]:
    return {
        "vocab_size": VOCABULARY, "hidden_size": WIDTH, "intermediate_size": 2816, "num_hidden_layers": layers,
        "num_attention_heads": 16, "num_key_value_heads": 4, "rms_norm_eps": 1e-5, "hidden_act": "silu",
        "max_position_embeddings": 2048, "tie_word_embeddings": False, "rope_theta": 10000.0, "rope_scaling": None,
    }  # fmt: skip


def make_hybrid(mixer: str) -> Make:
    """Half of the layers converted; beside it a Llama of the same sizes and, by its vocabulary, the same bytes."""

    def make(ours: Path, theirs: Path, size: int, dtype: torch.dtype) -> None:
        from scanproof.models.mamba_in_llama.loading import save
        from scanproof.models.mamba_in_llama.model import HybridLlama

        def model(pairs: int) -> HybridLlama:
            return HybridLlama(hybrid_config(mixer, 2 * pairs))

        hybrid = model(depth(size, dtype, model))
        save(hybrid, ours, dtype)
        write_llama(theirs, llama_fields(len(hybrid.model.layers)), weight_bytes(hybrid, dtype), dtype)

    return make


def hybrid_config(mixer: str, layers: int) -> Any:
    from scanproof.models.mamba_in_llama.config import HybridConfig, Mamba1Settings, Mamba2Settings

    ssm = Mamba1Settings() if mixer == "Mamba1" else Mamba2Settings(ngroups=16, d_state=64)
    odd = tuple(range(1, layers, 2))
    return HybridConfig(llama=llama_fields(layers), d_inner=WIDTH, d_xb=WIDTH // 4, attn_layers=odd, ssm=ssm)


def write_llama(folder: Path, fields: dict[str, Any], size: int, dtype: torch.dtype) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    with torch.device("meta"):
        rows = VOCABULARY + (size - weight_bytes(LlamaForCausalLM(LlamaConfig(**fields)), dtype)) // (
            2 * WIDTH * dtype.itemsize
        )
    model: Any = LlamaForCausalLM(LlamaConfig(**fields | {"vocab_size": rows}))
    model.to(dtype).save_pretrained(folder)


def load_hybrid(mixer: str) -> Load:
    def load(folder: Path, dtype: torch.dtype) -> Any:
        from scanproof.models.mamba_in_llama import config, loading

        settings = config.Mamba1Settings if mixer == "Mamba1" else config.Mamba2Settings
        return loading.load(folder, settings, loading.Precision(weights=dtype))

    return load


def make_megatron(ours: Path, theirs: Path, size: int, dtype: torch.dtype) -> None:
    """Megatron's pickle, and the folder that `scanproof convert` would write of it, without a tokenizer."""
    from scanproof.models.megatron import conversion, reading

    def model(repeats: int) -> Any:
        return conversion.make_blank(conversion.make_nemotron_config(architecture(repeats), VOCABULARY))

    repeats = depth(size, dtype, model)
    shapes = conversion.expected_shapes(architecture(repeats), model(repeats))
    tensors = {key: (0.02 * torch.randn(shape)).to(dtype) for key, shape in shapes.items()}
    path = ours / "release" / "mp_rank_00" / reading.FILE
    path.parent.mkdir(parents=True)
    torch.save({"args": Namespace(**asdict(architecture(repeats))), "model": tensors}, path)
    conversion.build(reading.read_checkpoint(ours), None).save_pretrained(theirs)


def architecture(repeats: int) -> Any:
    from scanproof.models.megatron.architecture import Architecture

    return Architecture(
        hybrid_override_pattern="M-M*" * repeats, hidden_size=WIDTH, num_attention_heads=8, num_query_groups=4,
        kv_channels=128, ffn_hidden_size=4 * WIDTH, max_position_embeddings=4096, norm_epsilon=1e-5,
        mamba_state_dim=128, mamba_head_dim=64, mamba_num_groups=8, mamba_expand=2, mamba_conv=4,
        mamba_chunk_size=128,
    )  # fmt: skip


def load_megatron(folder: Path, dtype: torch.dtype) -> Any:
    from scanproof.models.megatron import conversion, reading

    return conversion.build(reading.read_checkpoint(folder), dtype)


def make_neox(ours: Path, theirs: Path, size: int, dtype: torch.dtype) -> None:
    """What `depth_pruned` takes its block out of; both read the same folder."""
    from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

    def model(layers: int) -> Any:
        sizes: dict[str, Any] = {"hidden_size": WIDTH, "intermediate_size": 4 * WIDTH, "num_attention_heads": 16}
        return GPTNeoXForCausalLM(GPTNeoXConfig(vocab_size=VOCABULARY, num_hidden_layers=layers, **sizes))

    model(depth(size, dtype, model)).to(dtype).save_pretrained(ours)
    theirs.symlink_to(ours)


def load_checked(folder: Path, dtype: torch.dtype) -> Any:
    from scanproof.models.hub_layout import check_folder, exact_checkpoint

    check_folder(folder, own_tokenizer=False)
    with exact_checkpoint(folder):
        return transformers_load(folder, dtype)


FAMILIES = (
    Family("mamba1", make_state_spaces({}), load_state_spaces),
    Family("mamba2", make_state_spaces({"layer": "Mamba2"}), load_state_spaces),
    Family("mamba-hybrid", make_hybrid("Mamba1"), load_hybrid("Mamba1")),
    Family("mamba2-hybrid", make_hybrid("Mamba2"), load_hybrid("Mamba2")),
    Family("megatron-hybrid", make_megatron, load_megatron),
    Family("depth-pruned", make_neox, load_checked),
)
