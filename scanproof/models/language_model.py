"""The reference language model of the state-spaces layout."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from scanproof.models.layers import GatedMLP, RMSNorm, mixer, wide
from scanproof.models.layout import StateSpacesConfig

IGNORED_SETTINGS = ("layer", "use_fast_path", "use_mem_eff_path", "dt_init", "dt_scale", "conv_init")
"""Keys of ssm_cfg that choose a kernel path or an initial value, not what a checkpoint computes."""


@dataclass(frozen=True)
class Output:
    """What `forward` returns, as transformers and mamba_ssm name it."""

    logits: Tensor


class Block(nn.Module):
    """Add, norm, mixer, and with d_intermediate: add, norm, gated MLP."""

    def __init__(self, config: StateSpacesConfig, index: int, dtype: torch.dtype) -> None:
        super().__init__()
        size = config.d_model
        attends = index in config.attn_layer_idx
        settings = {key: value for key, value in config.ssm_cfg.items() if key not in IGNORED_SETTINGS}
        self.norm = norm(config, dtype)
        layer, chosen = ("Attention", dict(config.attn_cfg)) if attends else (config.layer, settings)
        self.mixer = mixer(layer, size, dtype, chosen)
        self.norm2 = norm(config, dtype) if config.d_intermediate else None
        self.mlp = GatedMLP(size, config.d_intermediate, dtype) if config.d_intermediate else None
        self.fused = config.fused_add_norm

    def forward(self, residual: Tensor, dtype: torch.dtype) -> Tensor:
        """Residual stream (b, l, d_model) before the block -> after it; branches compute in `dtype`."""
        residual = residual + self.mixer(normed(self.norm, residual, dtype, self.fused))
        if self.norm2 is None or self.mlp is None:
            return residual
        return torch.add(residual, self.mlp(normed(self.norm2, residual, dtype, self.fused)))


class Backbone(nn.Module):
    """Embedding, blocks and the last norm."""

    def __init__(self, config: StateSpacesConfig, dtype: torch.dtype) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.padded_vocab_size, config.d_model, dtype=dtype)
        self.layers = nn.ModuleList(Block(config, index, dtype) for index in range(config.n_layer))
        self.norm_f = norm(config, dtype)

    def forward(self, input_ids: Tensor) -> Tensor:
        """(b, l) token ids -> (b, l, d_model)."""
        hidden = self.embedding(input_ids)
        residual = hidden.to(wide(hidden.dtype)) if self.config.residual_in_fp32 else hidden
        for block in self.layers:
            residual = block(residual, hidden.dtype)
        return normed(self.norm_f, residual, hidden.dtype, self.config.fused_add_norm)


class StateSpacesLM(nn.Module):
    """Token ids to logits. State-dict keys and shapes are those of mamba_ssm's MambaLMHeadModel."""

    def __init__(self, config: StateSpacesConfig, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.config = config
        self.backbone = Backbone(config, dtype)
        self.lm_head = nn.Linear(config.d_model, config.padded_vocab_size, bias=False, dtype=dtype)
        self._initialise()
        self.tie_weights()

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of the weights, A_log and D apart."""
        return self.lm_head.weight.dtype

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.lm_head.weight.device

    def tie_weights(self) -> None:
        """Make lm_head and embedding one tensor, where the config says so."""
        if self.config.tie_embeddings:
            self.lm_head.weight = self.backbone.embedding.weight

    def forward(self, input_ids: Tensor) -> Output:
        """(b, l) token ids -> logits (b, l, padded vocabulary)."""
        return Output(self.lm_head(self.backbone(input_ids)))

    def _initialise(self) -> None:
        """Initial values for training: small embeddings, no biases, residual branches scaled down by depth."""
        branches = self.config.n_layer * (2 if self.config.d_intermediate else 1)
        nn.init.normal_(self.backbone.embedding.weight, std=0.02)
        for name, parameter in self.named_parameters():
            if name.endswith(("in_proj.bias", "out_proj.bias")):
                nn.init.zeros_(parameter)
            if name.endswith(("out_proj.weight", "fc2.weight")):
                nn.init.kaiming_uniform_(parameter, a=math.sqrt(5))
                parameter.data /= math.sqrt(branches)


def norm(config: StateSpacesConfig, dtype: torch.dtype) -> nn.Module:
    """RMSNorm or LayerNorm, as the config says."""
    return RMSNorm(config.d_model, dtype) if config.rms_norm else nn.LayerNorm(config.d_model, dtype=dtype)


def normed(layer: nn.Module, residual: Tensor, dtype: torch.dtype, fused: bool) -> Tensor:
    """The normed residual; mamba_ssm's unfused path rounds it to the model's dtype first."""
    return torch.as_tensor(layer(residual if fused else residual.to(dtype)))
