"""Convert Megatron's tensors to those of transformers' NemotronH.

Layouts: NVIDIA/Megatron-LM, megatron/core/models/mamba and megatron/core/transformer/attention.py; transformers,
models/nemotron_h.  Letters: h hidden_size, p kv_channels, g num_query_groups, q heads per group.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from scanproof.models.layout import CheckpointError
from scanproof.models.megatron.architecture import BLOCKS, Architecture, read_architecture
from scanproof.models.megatron.reading import EMBEDDING, Checkpoint, open_checkpoint

ENDS = (
    (EMBEDDING, "model.embeddings.weight"),
    ("decoder.final_norm.weight", "model.norm_f.weight"),
    ("output_layer.weight", "lm_head.weight"),
)
MIXER = (
    "A_log", "D", "dt_bias", "conv1d.weight", "conv1d.bias", "in_proj.weight", "norm.weight", "out_proj.weight",
)  # fmt: skip
QKV = "self_attention.linear_qkv.weight"
PROJECTIONS = ("mixer.q_proj.weight", "mixer.k_proj.weight", "mixer.v_proj.weight")
LAYERS: dict[str, tuple[tuple[str, str], ...]] = {
    "M": (("norm.weight", "norm.weight"), *((f"mixer.{name}", f"mixer.{name}") for name in MIXER)),
    "*": (
        ("self_attention.linear_qkv.layer_norm_weight", "norm.weight"),
        ("self_attention.linear_proj.weight", "mixer.o_proj.weight"),
    ),
    "-": (
        ("mlp.linear_fc1.layer_norm_weight", "norm.weight"),
        ("mlp.linear_fc1.weight", "mixer.up_proj.weight"),
        ("mlp.linear_fc2.weight", "mixer.down_proj.weight"),
    ),
}
"""Letter of a layer -> (Megatron's name below `decoder.layers.<i>.`, NemotronH's name below `model.layers.<i>.`)."""


def list_renamed(pattern: str) -> list[tuple[str, str]]:
    """(Megatron's key, NemotronH's key) of every tensor that is only renamed."""
    pairs = [
        (f"decoder.layers.{index}.{source}", f"model.layers.{index}.{target}")
        for index, letter in enumerate(pattern)
        for source, target in LAYERS[letter]
    ]
    return [*ENDS, *pairs]


def split_qkv(weight: Tensor, architecture: Architecture) -> tuple[Tensor, Tensor, Tensor]:
    """Megatron's interleaved projection (g * (q + 2) * p, h) -> queries (g * q * p, h), keys and values (g * p, h).

    In Megatron's tensor the key head and the value head of a group follow its query heads.
    """
    per_group = architecture.num_attention_heads // architecture.num_query_groups
    shape = (architecture.num_query_groups, per_group + 2, architecture.kv_channels, weight.shape[-1])
    groups = weight.reshape(shape)
    parts = torch.split(groups, [per_group, 1, 1], dim=1)
    q, k, v = (part.reshape(-1, weight.shape[-1]) for part in parts)
    return q, k, v


def make_nemotron_config(architecture: Architecture, vocab_size: int, special: Mapping[str, Any] | None = None) -> Any:
    """transformers' NemotronHConfig for `architecture`; `special` holds bos_token_id, eos_token_id, pad_token_id."""
    from transformers import NemotronHConfig

    return NemotronHConfig(
        vocab_size=vocab_size,
        hidden_size=architecture.hidden_size,
        layers_block_type=[BLOCKS[letter] for letter in architecture.hybrid_override_pattern],
        num_attention_heads=architecture.num_attention_heads,
        num_key_value_heads=architecture.num_query_groups,
        head_dim=architecture.kv_channels,
        max_position_embeddings=architecture.max_position_embeddings,
        intermediate_size=architecture.ffn_hidden_size,
        # torch's exact GELU; transformers' default for this architecture is a squared ReLU.
        mlp_hidden_act="gelu",
        ssm_state_size=architecture.mamba_state_dim,
        mamba_num_heads=architecture.mamba_num_heads,
        mamba_head_dim=architecture.mamba_head_dim,
        n_groups=architecture.mamba_num_groups,
        conv_kernel=architecture.mamba_conv,
        expand=architecture.mamba_expand,
        chunk_size=architecture.mamba_chunk_size,
        # transformers' lower limit of the step sizes, 0.001 by default; Megatron has none.
        time_step_min=0.0,
        layer_norm_epsilon=architecture.norm_epsilon,
        # Scoring needs no states; by default every forward pass would allocate them.
        use_cache=False,
        **(special or {}),
    )


def make_blank(config: Any) -> Any:
    """A NemotronHForCausalLM on the meta device, without weights."""
    from transformers import NemotronHForCausalLM

    with torch.device("meta"):
        return NemotronHForCausalLM(config)


def expected_shapes(architecture: Architecture, network: Any) -> dict[str, tuple[int, ...]]:
    """Megatron's key -> shape, for every tensor from which `network` is built."""
    targets = {key: tuple(value.shape) for key, value in network.state_dict().items()}
    shapes = {source: targets[target] for source, target in list_renamed(architecture.hybrid_override_pattern)}
    for index in _attention_layers(architecture):
        rows = [targets[f"model.layers.{index}.{name}"][0] for name in PROJECTIONS]
        shapes[f"decoder.layers.{index}.{QKV}"] = (sum(rows), architecture.hidden_size)
    return shapes


def check_tensors(tensors: dict[str, Tensor], shapes: dict[str, tuple[int, ...]], path: Path) -> None:
    """Compare a checkpoint's keys and shapes with those of its architecture.

    Raises:
        CheckpointError: names the file and every key that is missing, unknown or of another shape.
    """
    problems = [f"{key}: missing" for key in shapes if key not in tensors]
    problems += [f"{key}: the architecture has no place for it" for key in tensors if key not in shapes]
    problems += [
        f"{key}: shape {tuple(tensors[key].shape)}, but the architecture asks for {shape}"
        for key, shape in shapes.items()
        if key in tensors and tuple(tensors[key].shape) != shape
    ]
    if problems:
        raise CheckpointError("\n".join(f"{path}: {problem}" for problem in problems))


def convert_tensors(
    checkpoint: Checkpoint, architecture: Architecture, dtype: torch.dtype, device: torch.device | str
) -> dict[str, Tensor]:
    """NemotronH's state dict on `device`.

    All tensors get `dtype`, also A_log, D and dt_bias, as in Megatron's half-precision scoring and as transformers
    loads them.  A tensor that has this dtype and stays on the CPU is not copied.  After each twentieth of the bytes
    that is copied, the file is mapped again, so that the pages that were read leave memory.
    """
    state: dict[str, Tensor] = {}
    fresh, copied = checkpoint.tensors, 0
    size = sum(tensor.nbytes for tensor in fresh.values()) // 20
    names = list_renamed(architecture.hybrid_override_pattern)
    sources = [(source, (target,)) for source, target in names] + [
        (f"decoder.layers.{index}.{QKV}", tuple(f"model.layers.{index}.{name}" for name in PROJECTIONS))
        for index in _attention_layers(architecture)
    ]
    for source, targets in sources:
        tensor = fresh[source]
        parts = split_qkv(tensor, architecture) if len(targets) > 1 else (tensor,)
        state |= {target: part.to(device, dtype) for target, part in zip(targets, parts, strict=True)}
        if state[targets[0]].data_ptr() != tensor.data_ptr():
            copied += tensor.nbytes
        del tensor, parts
        if copied > size:
            fresh, copied = open_checkpoint(checkpoint.path).tensors, 0
    return state


def build(
    checkpoint: Checkpoint,
    dtype: torch.dtype | None,
    device: torch.device | str = "cpu",
    special: Mapping[str, Any] | None = None,
) -> Any:
    """The NemotronHForCausalLM of an opened checkpoint, ready to score.

    The weights take memory once: on the CPU in the stored dtype they stay mapped to the file, except queries, keys and
    values; otherwise they are converted one after the other.  Drop `checkpoint` afterwards: what was read through it
    stays in memory as long as it exists.

    Args:
        dtype: of all weights; None for that of the stored embedding.
        special: bos_token_id, eos_token_id and pad_token_id for the config.

    Raises:
        CheckpointError: see `read_architecture` and `check_tensors`.
    """
    architecture = read_architecture(checkpoint.args, checkpoint.path)
    config = make_nemotron_config(architecture, checkpoint.vocab_size, special)
    config.dtype = checkpoint.tensors[EMBEDDING].dtype if dtype is None else dtype
    network = make_blank(config)
    check_tensors(checkpoint.tensors, expected_shapes(architecture, network), checkpoint.path)
    state = convert_tensors(checkpoint, architecture, config.dtype, device)
    network.load_state_dict(state, assign=True)
    return network.requires_grad_(False).eval()


def _attention_layers(architecture: Architecture) -> list[int]:
    return [index for index, letter in enumerate(architecture.hybrid_override_pattern) if letter == "*"]
