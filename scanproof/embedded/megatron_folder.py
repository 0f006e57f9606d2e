"""Make a hybrid for training, and write it in the folder layout of NVIDIA's Megatron checkpoints."""

from __future__ import annotations

from argparse import Namespace
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from scanproof.models.megatron import conversion
from scanproof.models.megatron.architecture import SETTINGS, Architecture
from scanproof.models.megatron.reading import FILE, TRACKER

RELEASE = Path("release") / "mp_rank_00" / FILE
"""Path of the weights in a published folder."""
SHORTEST_STEP = 0.001
"""Smallest step size for which biases are drawn, as in Mamba-2's code."""


def make_blank(architecture: Architecture, vocab_size: int) -> Any:
    """A NemotronHForCausalLM with random weights from torch's current seed, float32."""
    from transformers import NemotronHForCausalLM

    network = conversion.make_blank(conversion.make_nemotron_config(architecture, vocab_size))
    drawn = conversion.make_nemotron_config(architecture, vocab_size)
    # Drawing biases takes the logarithm of this limit, so it must not be 0 there; the model itself has no limit.
    drawn.time_step_min = SHORTEST_STEP
    network.load_state_dict(NemotronHForCausalLM(drawn).state_dict(), assign=True)
    return network


def merge_qkv(q: Tensor, k: Tensor, v: Tensor, groups: int) -> Tensor:
    """Megatron's interleaved projection (g * (q + 2) * p, h), the inverse of `conversion.split_qkv`."""
    width = q.shape[-1]
    parts = [part.reshape(groups, -1, width) for part in (q, k, v)]
    return torch.cat(parts, dim=1).reshape(-1, width)


def megatron_tensors(network: Any, architecture: Architecture, dtype: torch.dtype) -> dict[str, Tensor]:
    """Megatron's key -> weight of `network` in `dtype`, in the order of `conversion.expected_shapes`."""
    state = {key: value.detach().to(dtype) for key, value in network.state_dict().items()}
    tensors = {
        source: state[target] for source, target in conversion.list_renamed(architecture.hybrid_override_pattern)
    }
    for index, letter in enumerate(architecture.hybrid_override_pattern):
        if letter == "*":
            q, k, v = (state[f"model.layers.{index}.{name}"] for name in conversion.PROJECTIONS)
            merged = merge_qkv(q, k, v, architecture.num_query_groups)
            tensors[f"decoder.layers.{index}.{conversion.QKV}"] = merged
    return tensors


def save(network: Any, architecture: Architecture, folder: Path, dtype: torch.dtype) -> None:
    """Write the tracker file and the weights; `embedded.tokenizer` writes the SentencePiece file."""
    stored = Namespace(
        **asdict(architecture),
        num_layers=len(architecture.hybrid_override_pattern),
        group_query_attention=True,
        **{setting.name: setting.value for setting in SETTINGS},
    )
    path = folder / RELEASE
    path.parent.mkdir(parents=True, exist_ok=True)
    (folder / TRACKER).write_text("release", encoding="utf-8")
    torch.save({"args": stored, "model": megatron_tensors(network, architecture, dtype)}, path)
