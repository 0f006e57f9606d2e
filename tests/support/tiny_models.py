"""Small models with random weights, one for each kind of layer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from scanproof.models.layout import StateSpacesConfig
from tests.support.late import Late

if TYPE_CHECKING:
    import torch

    from scanproof.models import language_model
else:
    torch, language_model = Late("torch"), Late("scanproof.models.language_model")

ATTENTION = {
    "causal": True,
    "d_conv": 4,
    "head_dim": 8,
    "num_heads": 4,
    "out_proj_bias": False,
    "qkv_proj_bias": False,
    "rotary_emb_dim": 4,
}
MAMBA2 = {"layer": "Mamba2", "d_state": 16, "headdim": 16, "chunk_size": 8}
CONFIGS: dict[str, dict[str, Any]] = {
    "mamba1": {"ssm_cfg": {"d_state": 8}},
    "mamba2": {"ssm_cfg": MAMBA2},
    "mamba2attn": {"ssm_cfg": MAMBA2, "attn_layer_idx": [1], "attn_cfg": ATTENTION},
    "transformer": {"attn_layer_idx": [0, 1], "attn_cfg": ATTENTION, "d_intermediate": 48},
}


def tiny(name: str, dtype: str = "float32", **changes: Any) -> language_model.StateSpacesLM:
    """A model of CONFIGS, or one with fields of its config changed; its weights are always the same."""
    torch.manual_seed(0)
    sizes = {"d_model": 32, "n_layer": 2, "vocab_size": 100}
    config = StateSpacesConfig(**(sizes | CONFIGS[name] | changes))
    model = language_model.StateSpacesLM(config, getattr(torch, dtype))
    with torch.no_grad():
        for key, value in model.named_parameters():
            if key.endswith((".D", "norm.weight", "embedding.weight")):
                value.add_(0.3 * torch.randn_like(value))
    return model.eval()


def ids(length: int = 21, rows: int = 3) -> torch.Tensor:
    """(rows, length) token ids."""
    return torch.randint(0, 100, (rows, length), generator=torch.Generator().manual_seed(1))
