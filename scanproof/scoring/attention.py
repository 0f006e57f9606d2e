"""Attention of the state-spaces layout that starts from the keys and values of earlier positions.

Letters: b batch, l seqlen, s earlier positions, h heads, k key heads, p headdim, w width of the convolution.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from scanproof.models.layers import rotate
from scanproof.scoring.carried_state import CarriedState
from scanproof.scoring.mixer_forms import Operators, convolve


def attend(mixer: Any, hidden: Tensor, slot: int, carried: CarriedState, operators: Operators) -> Tensor:
    """What mamba_ssm's MHA and our reference of it compute: (b, l, d_model) -> (b, l, d_model).

    Args:
        slot: the mixer's number among the layers that carry something on.
    """
    qkv, mlp = torch.split(
        mixer.in_proj(hidden), [mixer.in_proj.weight.shape[0] - mixer.mlp_dim, mixer.mlp_dim], dim=-1
    )
    conv = None
    # Without a convolution, mamba_ssm's class lacks the attribute.
    conv1d = getattr(mixer, "conv1d", None)
    if conv1d is not None:
        channels, _, width = conv1d.weight.shape
        before = carried.read_windows(slot, qkv.new_zeros(channels, width - 1))
        mixed, conv = convolve(conv1d, qkv.transpose(1, 2), before, carried, operators)
        qkv = mixed.transpose(1, 2)
    heads = torch.unflatten(qkv, -1, (-1, mixer.head_dim)).transpose(1, 2)
    count = heads.shape[1]
    queries = mixer.out_proj.weight.shape[1] - mixer.mlp_dim // 2
    queries //= mixer.head_dim
    shared = (count - queries) // 2
    q, k, v = torch.split(heads, [queries, shared, shared], dim=1)
    dim, base, interleaved = rotary_settings(mixer)
    if dim:
        q, k = (rotate(part, dim, base, interleaved, start=carried.starts) for part in (q, k))
    k, v = carried.extend_keys(slot, k, v, conv)
    context = attend_causally(q, k, v, carried, score_scale(mixer)).transpose(1, 2).flatten(-2)
    if mixer.mlp_dim:
        up, gate = mlp.chunk(2, dim=-1)
        context = torch.cat([context, up * F.silu(gate)], dim=-1)
    return torch.as_tensor(mixer.out_proj(context))


def rotary_settings(mixer: Any) -> tuple[int, float, bool]:
    """(channels, base, interleaved) of a mixer's rotary embedding; 0 channels where it has none."""
    if hasattr(mixer, "rotary"):
        return mixer.rotary  # type: ignore[no-any-return]
    if not mixer.rotary_emb_dim:
        return 0, 1.0, False
    return mixer.rotary_emb_dim, mixer.rotary_emb.base, mixer.rotary_emb.interleaved


def score_scale(mixer: Any) -> float | None:
    """Factor of the attention scores; None means 1 / sqrt(headdim)."""
    return mixer.scale if hasattr(mixer, "scale") else mixer.softmax_scale  # type: ignore[no-any-return]


def attend_causally(q: Tensor, k: Tensor, v: Tensor, carried: CarriedState, factor: float | None) -> Tensor:
    """Causal attention of queries (b, h, l, p) to keys and values (b, k, s + l, p) -> (b, h, l, p).

    flash-attn computes it in half precision on a GPU where it is installed, PyTorch otherwise.
    """
    flash = _find_flash_attention(q)
    if flash is not None:
        return _attend_with_flash(flash, q, k, v, carried, factor)
    k, v = (part.repeat_interleave(q.shape[1] // k.shape[1], dim=1) for part in (k, v))
    if not carried.longest:
        return F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=factor)
    mask = torch.ones(q.shape[2], k.shape[2], dtype=torch.bool, device=q.device).tril(carried.longest)
    if carried.visible is not None:
        mask = mask & carried.visible[:, None, None]
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=factor)


def _find_flash_attention(q: Tensor) -> Any:
    if q.device.type != "cuda" or q.dtype not in (torch.float16, torch.bfloat16):
        return None
    try:
        from flash_attn import flash_attn_varlen_func
    except ImportError:
        return None
    return flash_attn_varlen_func


def _attend_with_flash(
    flash: Any, q: Tensor, k: Tensor, v: Tensor, carried: CarriedState, factor: float | None
) -> Tensor:
    """flash-attn over rows with different numbers of earlier positions; the keys that a row lacks are left out.

    Its causal mask aligns the last query with the last key, so a query sees all earlier positions of its row.
    """
    batch, _, length, _ = q.shape
    whole = k.shape[2]
    have = torch.tensor([seen + length for seen in carried.seen], device=q.device)
    ends = F.pad(have.cumsum(0), (1, 0)).to(torch.int32)
    starts = torch.arange(0, (batch + 1) * length, length, device=q.device, dtype=torch.int32)
    q, k, v = (part.transpose(1, 2).flatten(0, 1) for part in (q, k, v))
    if carried.visible is not None:
        k, v = k[carried.visible.flatten()], v[carried.visible.flatten()]
    out = flash(q, k, v, starts, ends, length, whole, causal=True, softmax_scale=factor)
    return torch.unflatten(torch.as_tensor(out), 0, (batch, length)).transpose(1, 2)
