"""Read config.json of a checkpoint in the state-spaces layout."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from scanproof import files
from scanproof.printable import LONGEST, make_printable

REQUIRED = ("d_model", "n_layer", "vocab_size")
"""Fields that every published config.json has; a missing field of the others takes mamba_ssm's default."""


class CheckpointError(ValueError):
    """A checkpoint cannot be read; the message names the file and the key.

    Its keys and names were written by others: they are made printable, and cut.
    """

    def __init__(self, message: str) -> None:
        super().__init__(make_printable(message, LONGEST, lines=True))


def read_json_object(path: Path, purpose: str = "") -> dict[str, Any]:
    """The JSON object in a file of a checkpoint; `purpose` follows the words that there is no such file.

    Raises:
        CheckpointError: it is missing, no regular file, cannot be read, or holds something else.
    """
    try:
        return files.read_json_object(path)
    except FileNotFoundError:
        raise CheckpointError(f"{path}: there is no such file{purpose}") from None
    except json.JSONDecodeError as error:
        raise CheckpointError(f"{path}:{error.lineno}: no JSON: {error.msg}") from None
    except UnicodeDecodeError as error:
        raise CheckpointError(f"{path}: no JSON: it is not UTF-8 ({error.reason} at byte {error.start})") from None
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise CheckpointError(f"{path}: expected an object: {error}") from None


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
    data = read_json_object(path, "; a state-spaces checkpoint needs one")
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
        if key in (*REQUIRED, "pad_vocab_size_multiple") and value < 1:
            raise CheckpointError(f"{path}: {key}: expected a whole number from 1, found {value!r}")
    config = StateSpacesConfig(**data)
    if config.layer not in ("Mamba1", "Mamba2"):
        raise CheckpointError(f"{path}: ssm_cfg.layer: {config.layer!r} is not supported; Mamba1 or Mamba2")
    return config


def read_weight_map(index: Path) -> dict[str, str]:
    """Key -> name of the file beside `index`, the index of a checkpoint in shards, that holds it.

    Raises:
        CheckpointError: it cannot be read, or names something that is no file beside it.
    """
    named = read_json_object(index).get("weight_map")
    if not isinstance(named, dict) or not named:
        raise CheckpointError(f"{index}: weight_map: expected an object of key and file; not an index of shards")
    for key, name in named.items():
        if not isinstance(name, str) or name in ("", ".", "..") or set(name) & set("/\\\0"):
            raise CheckpointError(f"{index}: weight_map: {key}: {name!r} does not name a file beside it")
    return named
