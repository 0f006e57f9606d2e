"""The reference language model of the state-spaces layout."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from scanproof.models.attention import Attention
from scanproof.models.layers import GatedMLP, Mamba1, Mamba2, RMSNorm, widen_dtype
from scanproof.models.layout import StateSpacesConfig
from scanproof.models.states import LayerState, State

IGNORED_SETTINGS = ("layer", "use_fast_path", "use_mem_eff_path", "dt_init", "dt_scale", "conv_init")
"""Keys of ssm_cfg that choose a kernel path or an initial value; they do not change what a checkpoint computes."""


@dataclass(frozen=True)
class Output:
    """What `forward` returns, with the names of transformers and mamba_ssm."""

    logits: Tensor
    state: State | None = None
    """The state for the tokens that follow; None unless `forward` was given a state."""


class Block(nn.Module):
    """Norm, mixer, add; where d_intermediate is above 0 also norm, gated MLP, add."""

    def __init__(self, config: StateSpacesConfig, index: int, dtype: torch.dtype) -> None:
        super().__init__()
        size = config.d_model
        attends = index in config.attn_layer_idx
        settings = {key: value for key, value in config.ssm_cfg.items() if key not in IGNORED_SETTINGS}
        self.norm = make_norm(config, dtype)
        layer, chosen = ("Attention", dict(config.attn_cfg)) if attends else (config.layer, settings)
        self.mixer = make_mixer(layer, size, dtype, chosen)
        self.norm2 = make_norm(config, dtype) if config.d_intermediate else None
        self.mlp = GatedMLP(size, config.d_intermediate, dtype) if config.d_intermediate else None
        self.fused = config.fused_add_norm

    def forward(
        self, residual: Tensor, dtype: torch.dtype, state: LayerState | None = None
    ) -> tuple[Tensor, LayerState | None]:
        """Residual stream (b, l, d_model) and state before the block -> both after it; branches compute in `dtype`."""
        mixed, state = self.mixer(apply_norm(self.norm, residual, dtype, self.fused), state)
        residual = residual + mixed
        if self.norm2 is not None and self.mlp is not None:
            residual = residual + self.mlp(apply_norm(self.norm2, residual, dtype, self.fused))
        return residual, state


class Backbone(nn.Module):
    """Embedding, blocks and the last norm."""

    def __init__(self, config: StateSpacesConfig, dtype: torch.dtype) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.padded_vocab_size, config.d_model, dtype=dtype)
        self.layers = nn.ModuleList(Block(config, index, dtype) for index in range(config.n_layer))
        self.norm_f = make_norm(config, dtype)

    def forward(self, input_ids: Tensor, state: State | None = None) -> tuple[Tensor, State | None]:
        """(b, l) token ids, state before -> (b, l, d_model), state after; with no state before, there is none after."""
        hidden = self.embedding(input_ids)
        residual = hidden.to(widen_dtype(hidden.dtype)) if self.config.residual_in_fp32 else hidden
        before = [None] * len(self.layers) if state is None else state.layers
        after = []
        for block, layer in zip(self.layers, before, strict=True):
            residual, layer = block(residual, hidden.dtype, layer)
            after.append(layer)
        out = apply_norm(self.norm_f, residual, hidden.dtype, self.config.fused_add_norm)
        return out, None if state is None else State(tuple(after))


class StateSpacesLM(nn.Module):
    """Token ids to logits; state-dict keys and shapes are those of mamba_ssm's MambaLMHeadModel."""

    def __init__(self, config: StateSpacesConfig, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.config = config
        self.backbone = Backbone(config, dtype)
        self.lm_head = nn.Linear(config.d_model, config.padded_vocab_size, bias=False, dtype=dtype)
        self._initialise()
        self.tie_weights()

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of the weights other than A_log and D."""
        return self.lm_head.weight.dtype

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        return self.lm_head.weight.device

    def tie_weights(self) -> None:
        """Make lm_head and embedding share one tensor, where the config says so."""
        if self.config.tie_embeddings:
            self.lm_head.weight = self.backbone.embedding.weight

    def initial_state(self, batch: int) -> State:
        """The state before the first token of `batch` sequences.

        Raises:
            ValueError: the model has attention that is not causal.
        """
        blocks: Any = self.backbone.layers
        return State(tuple(block.mixer.initial_state(batch) for block in blocks))

    def forward(self, input_ids: Tensor, state: State | None = None) -> Output:
        """Logits of all tokens; where a state is given, also the state after them.

        Args:
            input_ids: (b, l), l >= 1.
            state: from `initial_state` or an earlier call; it is not changed.  None, for scoring, means the start of
                the sequence, and no state is returned.

        Returns:
            logits (b, l, padded vocabulary), and the state for the tokens that follow.

        Raises:
            ValueError: the state has another number of rows.
        """
        if state is not None and state.batch != len(input_ids):
            raise ValueError(f"the state has {state.batch} rows, input_ids has {len(input_ids)}; see State.rows")
        hidden, state = self.backbone(input_ids, state)
        return Output(self.lm_head(hidden), state)

    def _initialise(self) -> None:
        """Initial values for training: small embeddings, zero biases, residual branches scaled down by depth."""
        branches = self.config.n_layer * (2 if self.config.d_intermediate else 1)
        nn.init.normal_(self.backbone.embedding.weight, std=0.02)
        for name, parameter in self.named_parameters():
            if name.endswith(("in_proj.bias", "out_proj.bias")):
                nn.init.zeros_(parameter)
            if name.endswith(("out_proj.weight", "fc2.weight")):
                nn.init.kaiming_uniform_(parameter, a=math.sqrt(5))
                parameter.data /= math.sqrt(branches)


def make_mixer(layer: str, d_model: int, dtype: torch.dtype, settings: dict[str, Any]) -> nn.Module:
    """The mixer of one layer: `layer` is `Mamba1`, `Mamba2` or `Attention`, `settings` come from the config."""
    classes: dict[str, type[nn.Module]] = {"Mamba1": Mamba1, "Mamba2": Mamba2, "Attention": Attention}
    return classes[layer](d_model, dtype, **settings)


def make_norm(config: StateSpacesConfig, dtype: torch.dtype) -> nn.Module:
    """RMSNorm where the config says rms_norm, else LayerNorm."""
    return RMSNorm(config.d_model, dtype) if config.rms_norm else nn.LayerNorm(config.d_model, dtype=dtype)


def apply_norm(layer: nn.Module, residual: Tensor, dtype: torch.dtype, fused: bool) -> Tensor:
    """The normalised residual; mamba_ssm's unfused path first rounds the residual to the model's dtype."""
    return torch.as_tensor(layer(residual if fused else residual.to(dtype)))
