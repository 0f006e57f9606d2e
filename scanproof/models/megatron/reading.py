"""Open a checkpoint folder that Megatron wrote, without running the code that its pickle names."""

from __future__ import annotations

import os
import pickle
import re
from argparse import Namespace
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from scanproof import files
from scanproof.models.layout import CheckpointError
from scanproof.models.shards import DAMAGED_PICKLE, describe_refusal

TRACKER = "latest_checkpointed_iteration.txt"
FILE = "model_optim_rng.pt"
INERT = ("megatron.", "numpy.", "_io.BytesIO", "signal.Signals")
"""How the names of objects begin that Megatron stores with the weights and that are not needed here."""
EMBEDDING = "embedding.word_embeddings.weight"
FP8_STATE = "_extra_state"
"""How the keys end under which Transformer Engine stores the state of FP8 training; they are no weights."""


class Inert:
    """Replaces an object of the pickle that is not needed: it accepts any arguments and does nothing."""

    def __new__(cls, *args: object, **named: object) -> Inert:
        return super().__new__(cls)

    def __setstate__(self, state: object) -> None:
        return None


@dataclass(frozen=True)
class Checkpoint:
    """The content of a checkpoint folder; its tensors are memory-mapped."""

    path: Path
    args: Namespace | None
    """The arguments of the Megatron run that saved it; None where it stored none."""
    tensors: dict[str, Tensor]

    @property
    def vocab_size(self) -> int:
        """Rows of the embedding, padding included; raises CheckpointError where there is no embedding."""
        embedding = self.tensors.get(EMBEDDING)
        if embedding is None or embedding.ndim != 2:
            raise CheckpointError(f"{self.path}: {EMBEDDING}: missing, or not a matrix")
        return len(embedding)


def checkpoint_file(folder: Path) -> Path:
    """The file with the weights, in the folder that the tracker file names (`release` in published checkpoints).

    Raises:
        CheckpointError: there is no such file, or the model is split over several.
    """
    place = folder / _tracked(folder / TRACKER)
    path = place / "mp_rank_00" / FILE
    if others := sorted(other.name for other in place.glob("mp_rank_*") if other.name != "mp_rank_00"):
        raise CheckpointError(f"{place}: {others[0]}: the model is split over several ranks; merge them with Megatron")
    if not path.is_file():
        raise CheckpointError(f"{path}: there is no such file; a Megatron checkpoint folder needs it")
    return path


def _tracked(tracker: Path) -> str:
    """The folder that a tracker file names; `release` where there is none."""
    if not os.path.lexists(tracker):
        return "release"
    try:
        named = files.read_text(tracker, largest=4096).strip()
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{tracker}: cannot be read: {error}; it holds the number of an iteration") from None
    if re.fullmatch("[0-9]{1,18}", named):
        return f"iter_{int(named):07d}"
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}", named):
        raise CheckpointError(f"{tracker}: {named!r} is neither the number of an iteration nor the folder beside it")
    return named


def read_checkpoint(folder: Path) -> Checkpoint:
    """Arguments and tensors of a folder; the tensors are mapped, so only the parts that are read take memory.

    Raises:
        CheckpointError: there are no weights, the file cannot be read, or its pickle names an object that is neither a
            tensor nor known from Megatron; no code of such a file is run.
    """
    return open_checkpoint(checkpoint_file(folder))


def open_checkpoint(path: Path) -> Checkpoint:
    """The checkpoint in one file, in a new mapping; see `read_checkpoint`."""
    try:
        named = [name for name in _list_globals(path) if name != "argparse.Namespace"]
        if not (foreign := [name for name in named if not name.startswith(INERT)]):
            with torch.serialization.safe_globals([Namespace, *((Inert, name) for name in named)]):
                content = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
    except (pickle.UnpicklingError, *DAMAGED_PICKLE) as error:
        reason = describe_refusal(error)
        raise CheckpointError(f"{path}: not a readable Megatron checkpoint (truncated?): {reason}") from error
    if foreign:
        raise CheckpointError(
            f"{path}: its pickle asks for {', '.join(sorted(foreign))}, which no checkpoint of weights needs; "
            f"the file is refused and nothing of it was run"
        )
    return _check_content(content, path)


def _list_globals(path: Path) -> list[str]:
    """Full names of the objects that the pickle asks for and torch does not need itself; no code is run."""
    names: list[str] = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    return names


def _check_content(content: Any, path: Path) -> Checkpoint:
    if not isinstance(content, dict) or not isinstance(content.get("model"), dict):
        raise CheckpointError(f"{path}: model: missing; Megatron keeps the weights under this key")
    args = content.get("args")
    if args is not None and not isinstance(args, Namespace):
        raise CheckpointError(f"{path}: args: expected an argparse.Namespace, found {type(args).__name__}")
    if odd_names := [key for key in content["model"] if not isinstance(key, str)]:
        raise CheckpointError(f"{path}: model: {odd_names[0]!r} is a key; the names of weights are text")
    tensors = {key: value for key, value in content["model"].items() if not key.endswith(FP8_STATE)}
    if odd := [key for key, value in tensors.items() if not isinstance(value, Tensor)]:
        raise CheckpointError(f"{path}: {odd[0]}: expected a tensor, found {type(tensors[odd[0]]).__name__}")
    return Checkpoint(path, args, tensors)
