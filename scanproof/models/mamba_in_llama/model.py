"""transformers' Llama with Mamba mixers in the converted layers."""

from __future__ import annotations

from typing import Any

import torch
import transformers
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from scanproof.models import cache_names
from scanproof.models.mamba_in_llama.cache import HybridCache, find_padding
from scanproof.models.mamba_in_llama.config import HybridConfig
from scanproof.models.mamba_in_llama.mixers import make_mixer
from scanproof.models.mamba_in_llama.operations import Operations, operations


class FusedRMSNorm(nn.Module):
    """The norm of the converted layers: mamba_ssm's, which rounds once, where Llama's norm rounds twice."""

    def __init__(self, size: int, eps: float, ops: Operations) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps, self.ops = eps, ops

    def forward(self, x: Tensor) -> Tensor:
        return torch.as_tensor(self.ops.rms_norm_fn(x, self.weight, None, eps=self.eps))


class ConvertedLayer(nn.Module):
    """Norm, mixer, add; norm, gated MLP, add.  It is called like a decoder layer of Llama."""

    def __init__(self, config: HybridConfig, index: int, mlp: nn.Module, ops: Operations) -> None:
        super().__init__()
        eps = float(config.llama["rms_norm_eps"])
        self.index = index
        self.mamba = make_mixer(config, ops)
        self.mlp = mlp
        self.input_layernorm = FusedRMSNorm(config.d_model, eps, ops)
        self.post_attention_layernorm = FusedRMSNorm(config.d_model, eps, ops)

    def forward(self, hidden_states: Tensor, cache: Any = None, past_key_values: Any = None, **_: Any) -> Tensor:
        """Residual stream (b, l, d_model) -> (b, l, d_model); the cache has one of two names (`cache_names`)."""
        held = past_key_values if cache is None else cache
        state, real = (held.state(self.index), held.real) if isinstance(held, HybridCache) else (None, None)
        hidden_states = hidden_states + self.mamba(self.input_layernorm(hidden_states), state, real)
        return torch.add(hidden_states, self.mlp(self.post_attention_layernorm(hidden_states)))


# Any, because its annotations differ between versions of transformers.
_Llama: Any = LlamaForCausalLM
_CACHE = cache_names.name_cache(LlamaForCausalLM.forward)


class HybridLlama(_Llama):  # type: ignore[misc]
    """A MambaInLlama model; state-dict keys are those of the published checkpoints.

    Its name lacks the word Mamba, because transformers treats the cache of classes with that name differently.
    """

    def __init__(
        self, config: HybridConfig, ops: Operations | None = None, attn_implementation: str | None = None
    ) -> None:
        """Make a model with random float32 weights; `ops` are those of the CPU by default."""
        # Only generation needs a cache, and asks for it itself.
        fields = {**config.llama_arguments(), "use_cache": False}
        if attn_implementation is not None:
            fields["attn_implementation"] = attn_implementation
        super().__init__(LlamaConfig(**fields))
        self.hybrid = config
        ops = ops or operations(torch.device("cpu"))
        for index, layer in enumerate(self.model.layers):
            if index in config.attn_layers:
                # The number among the attention layers only, so that the first layer of the cache is in use.
                layer.self_attn.layer_idx = config.attn_layers.index(index)
            else:
                self.model.layers[index] = ConvertedLayer(config, index, layer.mlp, ops)

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        cache: Any = None,
        past_key_values: Any = None,
        use_cache: bool | None = None,
        **kwargs: Any,
    ) -> Any:
        """Token ids (b, l) -> logits (b, l, vocabulary) and the cache, as in LlamaForCausalLM.

        Args:
            cache: a HybridCache.
            past_key_values: the same, under the name before transformers 5.24.

        Raises:
            TypeError: the cache is of a class that cannot hold the states of the mixers.
            RuntimeError: transformers did not hand the cache to the converted layers.
        """
        inputs = input_ids if input_ids is not None else kwargs["inputs_embeds"]
        real = find_padding(attention_mask, inputs.shape[1])
        held = past_key_values if cache is None else cache
        if held is None and (use_cache or real is not None):
            held = HybridCache()
        if held is not None and not hasattr(held, "states"):
            raise TypeError(f"a hybrid needs a HybridCache, not a {type(held).__name__}")
        if held is not None:
            held.real = real
        if isinstance(held, HybridCache):
            held.asked = set()
        output = super().forward(
            input_ids=input_ids, attention_mask=attention_mask, use_cache=bool(use_cache), **{_CACHE: held}, **kwargs
        )
        if isinstance(held, HybridCache):
            self._check_states(held)
        if held is not None:
            held.seen += inputs.shape[1]
        return output

    def _check_states(self, held: HybridCache) -> None:
        # A layer that is given no cache computes as at the first position, and nothing else would say so.
        layers = [layer.index for layer in self.model.layers if isinstance(layer, ConvertedLayer)]
        if lacking := [index for index in layers if index not in held.asked]:
            raise RuntimeError(
                f"transformers {transformers.__version__} did not hand the cache to layer {lacking[0]}: this version "
                "is not supported by scanproof's MambaInLlama"
            )

    def generate(self, *args: Any, **kwargs: Any) -> Any:
        """transformers' `generate`, with a cache that also holds the states of the mixers."""
        names = (cache_names.NEW, cache_names.OLD)
        if all(kwargs.get(name) is None for name in names) and kwargs.setdefault("use_cache", True):
            kwargs[_CACHE] = HybridCache()
        return super().generate(*args, **kwargs)

    def set_rotary(self, dtype: torch.dtype, device: torch.device) -> None:
        """Compute the rotary frequencies in float32 and round them to `dtype`."""
        rotary: Any = LlamaRotaryEmbedding(config=self.config).to(device)
        if torch.finfo(dtype).bits < torch.finfo(torch.float32).bits:
            rotary.inv_freq = rotary.inv_freq.to(dtype).float()
        self.model.rotary_emb = rotary
