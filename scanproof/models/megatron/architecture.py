"""The architecture of a Megatron hybrid, from the arguments that are stored in its checkpoint."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from scanproof.files import parse_yaml
from scanproof.models.layout import CheckpointError

KNOWN = Path(__file__).with_name("known.yaml")
STORED = ("hidden_size", "num_attention_heads", "kv_channels", "ffn_hidden_size", "norm_epsilon")
"""Arguments that must be there where a checkpoint has arguments."""
BLOCKS = {"M": "linear_attention", "*": "full_attention", "-": "mlp"}
"""Letter of the layer pattern -> transformers' name for that kind of layer."""


@dataclass(frozen=True)
class Setting:
    """An argument that changes what the weights compute, and its only supported value.

    Biases, a gated MLP and tied embeddings need no entry: the names and shapes of the tensors show them.
    """

    name: str
    value: object
    otherwise: str
    """What any other value would mean."""


SETTINGS = (
    Setting("position_embedding_type", "none", "attention would need position embeddings"),
    Setting("apply_layernorm_1p", False, "the norms would store their weight minus one"),
    Setting("squared_relu", False, "the MLP would not be GELU"),
    Setting("openai_gelu", False, "the MLP's GELU would be an approximation"),
    Setting("tensor_model_parallel_size", 1, "the tensors would be split over several files"),
    Setting("pipeline_model_parallel_size", 1, "the layers would be split over several files"),
)


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """The sizes of a hybrid, under Megatron's names; in elements."""

    hybrid_override_pattern: str
    """One letter per layer: `M` Mamba-2, `*` attention, `-` MLP."""
    hidden_size: int
    num_attention_heads: int
    num_query_groups: int
    """Number of key heads, and of value heads."""
    kv_channels: int
    """Size of an attention head."""
    ffn_hidden_size: int
    max_position_embeddings: int
    """Longest training sequence, in tokens; it does not change what the model computes."""
    norm_epsilon: float
    mamba_state_dim: int
    mamba_head_dim: int
    mamba_num_groups: int
    mamba_expand: int
    mamba_conv: int
    mamba_chunk_size: int

    @property
    def mamba_num_heads(self) -> int:
        """Number of heads of a Mamba-2 layer."""
        return self.mamba_expand * self.hidden_size // self.mamba_head_dim


def read_architecture(stored: Namespace | None, path: Path) -> Architecture:
    """The architecture of the checkpoint file `path` with the arguments `stored`; known.yaml has the missing ones.

    Raises:
        CheckpointError: a required argument is missing, a type is wrong, or a value is not supported; the message has
            one line per mistake.
    """
    given = {} if stored is None else {key: value for key, value in vars(stored).items() if value is not None}
    known = parse_yaml(KNOWN.read_text(encoding="utf-8"))["fields"]
    if "hybrid_layer_pattern" in given:
        given.setdefault("hybrid_override_pattern", given["hybrid_layer_pattern"])
    if given.get("group_query_attention") is False:
        given["num_query_groups"] = given.get("num_attention_heads")
    chosen = {field.name: given.get(field.name, known[field.name]) for field in fields(Architecture)}
    if problems := [*_missing(stored, given), *_unsupported(given), *_unsound(chosen)]:
        raise CheckpointError("\n".join(f"{path}: {problem}" for problem in problems))
    return Architecture(**chosen)


def _missing(stored: Namespace | None, given: dict[str, Any]) -> Iterator[str]:
    for name in STORED if stored is not None else ():
        if name not in given:
            yield f"args.{name}: missing; the model cannot be built without it"


def _unsupported(given: dict[str, Any]) -> Iterator[str]:
    for setting in SETTINGS:
        if given.get(setting.name, setting.value) != setting.value:
            yield f"args.{setting.name}: {given[setting.name]!r} is not supported, {setting.otherwise}"


def _unsound(chosen: dict[str, Any]) -> Iterator[str]:
    for field in fields(Architecture):
        value, kind = chosen[field.name], str(field.type)
        if type(value).__name__ != kind or (kind != "str" and value <= 0):
            yield f"args.{field.name}: expected a positive {kind}, found {value!r}".replace("positive str", "str")
            return
    for letter in sorted(set(chosen["hybrid_override_pattern"]) - set(BLOCKS)):
        yield f"args.hybrid_override_pattern: {letter!r} is no kind of layer that is supported ({', '.join(BLOCKS)})"
    inner = chosen["mamba_expand"] * chosen["hidden_size"]
    for whole, part, what in (
        (chosen["num_attention_heads"], chosen["num_query_groups"], "num_attention_heads by num_query_groups"),
        (inner, chosen["mamba_head_dim"], "mamba_expand * hidden_size by mamba_head_dim"),
        (inner, chosen["mamba_head_dim"] * chosen["mamba_num_groups"], "the Mamba-2 heads by mamba_num_groups"),
    ):
        if whole % part:
            yield f"args: {what} leaves a rest ({whole} by {part})"
