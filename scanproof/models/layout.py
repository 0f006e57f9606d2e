"""Read config.json of a checkpoint in the state-spaces layout."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

REQUIRED = ("d_model", "n_layer", "vocab_size")
"""Fields that every published config.json has; a missing field of the others takes mamba_ssm's default."""


class CheckpointError(ValueError):
    """A checkpoint cannot be read; the message names the file and the key."""


@dataclass(frozen=True, kw_only=True)
class StateSpacesConfig:
    """The fields of mamba_ssm's MambaConfig, with its defaults for those that older checkpoints lack."""

    d_model: int
    n_layer: int
    vocab_size: int
    d_intermediate: int = 0
    ssm_cfg: dict[str, Any] = field(default_factory=dict)
    attn_layer_idx: list[int] = field(default_factory=list)
    attn_cfg: dict[str, Any] = field(default_factory=dict)
    rms_norm: bool = True
    residual_in_fp32: bool = True
    fused_add_norm: bool = True
    pad_vocab_size_multiple: int = 8
    tie_embeddings: bool = True

    @property
    def padded_vocab_size(self) -> int:
        """Rows of the embedding: vocab_size rounded up to the multiple."""
        multiple = self.pad_vocab_size_multiple
        return -(-self.vocab_size // multiple) * multiple

    @property
    def layer(self) -> str:
        """`Mamba1` or `Mamba2`: the mixer of the layers that are not attention."""
        return str(self.ssm_cfg.get("layer", "Mamba1"))

    def to_dict(self) -> dict[str, Any]:
        """The fields as config.json has them."""
        return asdict(self)


def read_config(path: Path) -> StateSpacesConfig:
    """The config in file `path`.

    Raises:
        CheckpointError: the file is missing or no JSON object, a key missing or unknown, or a value of the wrong type.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"{path}: there is no such file; a state-spaces checkpoint needs one") from None
    except json.JSONDecodeError as error:
        raise CheckpointError(f"{path}:{error.lineno}: no JSON: {error.msg}") from None
    if not isinstance(data, dict):
        raise CheckpointError(f"{path}: expected an object of config fields")
    known = {item.name: item for item in fields(StateSpacesConfig)}
    if missing := [key for key in REQUIRED if key not in data]:
        raise CheckpointError(f"{path}: {missing[0]}: missing; needed are {', '.join(REQUIRED)}")
    if unknown := sorted(set(data) - set(known)):
        raise CheckpointError(
            f"{path}: {unknown[0]}: mamba_ssm knows no such field; is this a state-spaces checkpoint? "
            f"(a transformers checkpoint is read by the model class `hf`)"
        )
    for key, value in data.items():
        expected = str(known[key].type).partition("[")[0]
        if type(value).__name__ != expected:
            raise CheckpointError(f"{path}: {key}: expected {expected}, found {value!r}")
    config = StateSpacesConfig(**data)
    if config.layer not in ("Mamba1", "Mamba2"):
        raise CheckpointError(f"{path}: ssm_cfg.layer: {config.layer!r} is not supported; Mamba1 or Mamba2")
    return config
