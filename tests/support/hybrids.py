"""Hybrids of attention and Mamba layers: the shipped stand-ins, and transformers' families with random weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from scanproof.embedded import MIRROR
from tests.support.late import Late

if TYPE_CHECKING:
    import torch
    import transformers

    from scanproof.models import loading
    from scanproof.models.mamba_in_llama import config as llama_config
    from scanproof.models.mamba_in_llama import loading as llama_loading
    from scanproof.models.megatron import conversion, reading
else:
    torch, transformers = Late("torch"), Late("transformers")
    loading = Late("scanproof.models.loading")
    llama_config, llama_loading = (Late(f"scanproof.models.mamba_in_llama.{name}") for name in ("config", "loading"))
    conversion, reading = (Late(f"scanproof.models.megatron.{name}") for name in ("conversion", "reading"))

VOCABULARY = 97
FIELDS: dict[str, Any] = {
    "vocab_size": VOCABULARY, "hidden_size": 32, "num_attention_heads": 4, "num_key_value_heads": 2,
    "intermediate_size": 48, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
MAMBA2 = {"mamba_n_heads": 4, "mamba_d_head": 16, "mamba_d_state": 16, "mamba_n_groups": 2, "mamba_chunk_size": 8}
FAMILIES: dict[str, dict[str, Any]] = {
    "NemotronH": {
        "layers_block_type": ["mamba", "mlp", "attention", "mamba"], "head_dim": 8, "mamba_num_heads": 4,
        "mamba_head_dim": 16, "ssm_state_size": 16, "n_groups": 2, "chunk_size": 8,
    },
    "Bamba": {"num_hidden_layers": 3, "attn_layer_indices": [1], **MAMBA2},
    "FalconH1": {"num_hidden_layers": 2, "mamba_d_ssm": 64, **MAMBA2},
    "GraniteMoeHybrid": {
        "num_hidden_layers": 3, "layer_types": ["mamba", "attention", "mamba"], "num_local_experts": 2,
        "num_experts_per_tok": 1, "shared_intermediate_size": 48, **MAMBA2,
    },
    "Zamba2": {
        "num_hidden_layers": 4, "layers_block_type": ["mamba", "hybrid", "mamba", "hybrid"], "mamba_d_state": 16,
        "mamba_ngroups": 2, "n_mamba_heads": 4, "chunk_size": 8, "num_mem_blocks": 1,
    },
    "Jamba": {
        "num_hidden_layers": 4, "attn_layer_period": 2, "attn_layer_offset": 1, "num_experts": 2,
        "num_experts_per_tok": 1, "mamba_d_state": 8, "mamba_dt_rank": 4,
    },
    "Zamba": {
        "num_hidden_layers": 4, "layers_block_type": ["mamba", "hybrid", "mamba", "hybrid"], "mamba_d_state": 8,
        "n_mamba_heads": 2, "mamba_dt_rank": 4,
    },
}  # fmt: skip
"""transformers' family -> fields of its config beside `FIELDS`."""


FACTOR = 4.0
"""Another release of transformers may draw other random weights, so that a defect is off by more than was measured."""


class Known(NamedTuple):
    """What a model is known to do wrongly."""

    because: str
    """In words, as in docs/defects.md."""
    most: float
    """Largest divergence at one position, in nats, that is this defect: `FACTOR` times what was measured, with
    transformers 5.23 in float64 on a CPU (`pytest tests/kernels/test_hybrid_state.py --runxfail` says it)."""


@dataclass(frozen=True)
class Hybrid:
    """A model with a cache."""

    name: str
    make: Callable[[str, str], Any]
    """From a dtype and a device to the model, ready to score."""
    keeps: str
    """What its cache is: `values`, states that no call changes; `HybridCache`; or `DynamicCache` of transformers."""
    chunk: int
    """Positions of a chunk of its scan."""
    operations: tuple[str, ...] = ()
    """Operations that it calls on a GPU; empty: it is not run there."""
    cannot: Mapping[str, str] = field(default_factory=dict)
    """Property -> why the model cannot be asked for it."""
    known: Mapping[str, Known] = field(default_factory=dict)
    """Property -> what it does wrongly."""
    positions: bool = False
    """Whether it has to be told the positions, as `generate` does; see the property `no positions`."""
    one_by_one: bool = False
    """Whether it goes on from a cache by single positions only; see the property `split`."""

    def __str__(self) -> str:
        return self.name

    def most(self, name: str) -> float | None:
        """How far off at most what is known makes a property; None where nothing is known."""
        return self.known[name].most if name in self.known else None


def make_state_spaces(name: str) -> Callable[[str, str], Any]:
    """The stand-in in the layout of state-spaces."""
    return lambda dtype, device: loading.load(MIRROR / "scanproof" / name, getattr(torch, dtype)).to(device)


def make_llama(name: str, settings: str) -> Callable[[str, str], Any]:
    """The stand-in of MambaInLlama."""

    def make(dtype: str, device: str) -> Any:
        precision = llama_loading.Precision(weights=getattr(torch, dtype))
        return llama_loading.load(
            MIRROR / "scanproof" / name, getattr(llama_config, settings), precision, device, "sdpa"
        )

    return make


def make_megatron(name: str) -> Callable[[str, str], Any]:
    """The stand-in of NVIDIA's hybrid: transformers' NemotronHForCausalLM."""
    return lambda dtype, device: conversion.build(
        reading.read_checkpoint(MIRROR / "scanproof" / name), getattr(torch, dtype), device
    )


def make_family(name: str, *, limited: bool = False) -> Callable[[str, str], Any]:
    """A family of transformers, with weights that are far enough from those of the start to tell layers apart.

    Args:
        limited: with the limits of step sizes that its config has by default, where it has some.
    """

    def make(dtype: str, device: str) -> Any:
        torch.manual_seed(0)
        settings = getattr(transformers, f"{name}Config")(**{**FIELDS, **FAMILIES[name]})
        model = getattr(transformers, f"{name}ForCausalLM")(settings).to(device, getattr(torch, dtype)).eval()
        # The grouped matrix product of experts has no float64.
        model.config._experts_implementation = "eager"
        with torch.no_grad():
            for weight in model.parameters():
                weight.add_(0.2 * torch.randn_like(weight))
        for module in model.modules():
            if hasattr(module, "time_step_limit") and not limited:
                module.time_step_limit = (0.0, float("inf"))
        return model

    return make


NO_MASK = "its forward pass has no attention mask"
VALUES = "no call changes a state, and a state has no such method"
CROP = "crop leaves the recurrent state as it is after the tokens that were removed"
SPLIT = "a second piece of several positions begins with an empty recurrent state"
POSITIONS = "without position_ids, every call begins at position 0"
LIMIT = "a single position drops the limit of step sizes that several have"
SELECT = "batch_select_indices moves the keys and leaves the states"
PADDED = "a single position is never taken for padding, and enters the state"
NO_SELECT = "transformers' cache of a recurrent layer has no batch_select_indices: it raises AttributeError"
NO_CROP = "a state cannot go back: HybridCache raises NotImplementedError"
SSD = ("mamba_chunk_scan_combined", "selective_state_update", "causal_conv1d_fn", "causal_conv1d_update")
SCAN = ("selective_scan_fn", "selective_state_update", "causal_conv1d_fn", "causal_conv1d_update")


def know_cache(crop: float, padded: float) -> dict[str, Known]:
    """What every recurrent cache of transformers does wrongly, and how far that was off, in nats."""
    return {"crop": Known(CROP, FACTOR * crop), "padded step": Known(PADDED, FACTOR * padded)}


def transformers_hybrid(name: str, crop: float, padded: float, **known: Known) -> Hybrid:
    """A family of transformers with random weights, and what it does wrongly beside `know_cache`."""
    names = {wrong.replace("_", " "): one for wrong, one in known.items()}
    cannot = {} if "selected" in names else {"selected": NO_SELECT}
    return Hybrid(
        name, make_family(name), "DynamicCache", 8, cannot=cannot, known={**know_cache(crop, padded), **names},
        positions="no positions" in names, one_by_one="split" in names,
    )  # fmt: skip


HYBRIDS = (
    Hybrid(
        "mamba2attn-tiny", make_state_spaces("mamba2attn-tiny"), "values", 16,
        cannot=dict.fromkeys(("reset", "crop", "selected"), VALUES)
        | dict.fromkeys(("different lengths", "left padding", "padded step"), NO_MASK),
    ),
    Hybrid(
        "mamba-hybrid-tiny", make_llama("mamba-hybrid-tiny", "Mamba1Settings"), "HybridCache", 16, SCAN,
        cannot={"crop": NO_CROP},
    ),
    Hybrid(
        "mamba2-hybrid-tiny", make_llama("mamba2-hybrid-tiny", "Mamba2Settings"), "HybridCache", 16, SSD,
        cannot={"crop": NO_CROP},
    ),
    Hybrid(
        "megatron-hybrid-tiny", make_megatron("megatron-hybrid-tiny"), "DynamicCache", 16, SSD,
        cannot={"selected": NO_SELECT}, known=know_cache(1.471, 3.891),
    ),
    transformers_hybrid("NemotronH", 0.00177, 1.192),
    transformers_hybrid("Bamba", 1.336, 1.257, no_positions=Known(POSITIONS, FACTOR * 0.1295)),
    transformers_hybrid("FalconH1", 0.00491, 0.04465, selected=Known(SELECT, FACTOR * 0.1496)),
    transformers_hybrid("GraniteMoeHybrid", 0.2762, 1.315),
    transformers_hybrid("Zamba2", 0.07697, 1.225),
    transformers_hybrid("Jamba", 0.6323, 2.827, split=Known(SPLIT, FACTOR * 1.801)),
    transformers_hybrid("Zamba", 0.01766, 1.172, split=Known(SPLIT, FACTOR * 0.007983)),
)  # fmt: skip
LIMITED = tuple(
    Hybrid(
        f"{name}-limited", make_family(name, limited=True), "DynamicCache", 8,
        known={"steps": Known(LIMIT, FACTOR * nats)},
    )
    for name, nats in (("NemotronH", 3.148e-07), ("Zamba2", 1.742e-05))
)  # fmt: skip
"""Families whose configs limit step sizes from below, 0.001 by default; of `HYBRIDS` the limit is taken away."""
