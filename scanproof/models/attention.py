"""The attention layer of the state-spaces layout, with parameter names and shapes of mamba_ssm's MHA."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scanproof.models.layers import convolve, make_empty_window, rotate
from scanproof.models.states import AttentionState


class Attention(nn.Module):
    """mamba_ssm's MHA: optional convolution over q, k and v, rotary positions, attention with grouped keys."""

    def __init__(
        self,
        d_model: int,
        dtype: torch.dtype,
        *,
        num_heads: int,
        num_heads_kv: int | None = None,
        head_dim: int | None = None,
        mlp_dim: int = 0,
        qkv_proj_bias: bool = True,
        out_proj_bias: bool = True,
        softmax_scale: float | None = None,
        causal: bool = False,
        d_conv: int = 0,
        rotary_emb_dim: int = 0,
        rotary_emb_base: float = 10000.0,
        rotary_emb_interleaved: bool = False,
    ) -> None:
        super().__init__()
        self.heads, self.kv_heads = num_heads, num_heads_kv or num_heads
        self.head_dim = head_dim or d_model // num_heads
        self.mlp_dim = -(-mlp_dim // 256) * 256
        self.scale, self.causal, self.d_conv = softmax_scale, causal, d_conv
        self.rotary = (rotary_emb_dim, rotary_emb_base, rotary_emb_interleaved)
        qkv = self.head_dim * (self.heads + 2 * self.kv_heads)
        self.in_proj = nn.Linear(d_model, qkv + self.mlp_dim, bias=qkv_proj_bias, dtype=dtype)
        self.conv1d = nn.Conv1d(qkv, qkv, d_conv, groups=qkv, dtype=dtype) if d_conv else None
        out = self.head_dim * self.heads + self.mlp_dim // 2
        self.out_proj = nn.Linear(out, d_model, bias=out_proj_bias, dtype=dtype)

    def initial_state(self, batch: int) -> AttentionState:
        """The state before a sequence's first position.

        Raises:
            ValueError: the attention is not causal, so later positions would change earlier outputs.
        """
        if not self.causal:
            raise ValueError("attn_cfg: causal is false: attention that sees later positions cannot be continued")
        cache = self.in_proj.weight.new_zeros(batch, self.kv_heads, 0, self.head_dim)
        return AttentionState(None if self.conv1d is None else make_empty_window(self.conv1d, batch), cache, cache)

    def forward(self, hidden: Tensor, state: AttentionState | None = None) -> tuple[Tensor, AttentionState | None]:
        """(b, l, d_model), state before -> (b, l, d_model), state after; with no state before, there is none after."""
        projected = self.in_proj(hidden)
        qkv, mlp = torch.split(projected, [projected.shape[-1] - self.mlp_dim, self.mlp_dim], dim=-1)
        before = None
        if self.conv1d is not None:
            mixed, before = convolve(self.conv1d, qkv.transpose(1, 2), None if state is None else state.conv)
            qkv = mixed.transpose(1, 2)
        heads = torch.unflatten(qkv, -1, (-1, self.head_dim)).transpose(1, 2)
        q, k, v = torch.split(heads, [self.heads, self.kv_heads, self.kv_heads], dim=1)
        seen = 0 if state is None else state.seen
        if self.rotary[0]:
            q, k = rotate(q, *self.rotary, start=seen), rotate(k, *self.rotary, start=seen)
        after = None
        if state is not None:
            k, v = torch.cat([state.keys, k], dim=2), torch.cat([state.values, v], dim=2)
            after = AttentionState(before, k, v)
        context = self._attend(q, k, v, seen).transpose(1, 2).flatten(-2)
        if self.mlp_dim:
            up, gate = mlp.chunk(2, dim=-1)
            context = torch.cat([context, up * F.silu(gate)], dim=-1)
        return self.out_proj(context), after

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, seen: int) -> Tensor:
        """Queries (b, h, l, p) that start at position `seen`, keys and values (b, k, s, p) -> (b, h, l, p)."""
        k, v = (part.repeat_interleave(self.heads // self.kv_heads, dim=1) for part in (k, v))
        if not seen:
            return F.scaled_dot_product_attention(q, k, v, is_causal=self.causal, scale=self.scale)
        # is_causal aligns its mask with the first key: a single query would see key 0 only.
        past = torch.ones(q.shape[2], k.shape[2], dtype=torch.bool, device=q.device).tril(seen)
        return F.scaled_dot_product_attention(q, k, v, attn_mask=past, scale=self.scale)
