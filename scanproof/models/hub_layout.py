"""Check a local checkpoint folder in transformers' layout; errors name the file and the key.

transformers itself fills a missing tensor with random numbers, drops a superfluous one, takes a default for a missing
field and makes up a tokenizer.  Each of these is an error here.
"""

from __future__ import annotations

import logging
import pickle
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError, safe_open

from scanproof import files
from scanproof.models.layout import CheckpointError, read_json_object, read_weight_map
from scanproof.models.shards import describe_refusal

REQUIRED = (
    ("model_type",),
    ("num_hidden_layers", "n_layer", "n_layers", "num_layers"),
    ("hidden_size", "d_model", "n_embd", "dim"),
    ("vocab_size",),
)
"""Fields of config.json for which transformers would take a default, each with its other names."""
TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model", "tekken.json")
INDICES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
WEIGHTS = ("model.safetensors", "pytorch_model.bin")
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")
_REASONS = {
    "MISSING": "missing",
    "UNEXPECTED": "the model has no place for it",
    "MISMATCH": "another shape than the config asks for",
}


def check_folder(folder: Path, own_tokenizer: bool) -> None:
    """Raise CheckpointError for a config, a weight file or a tokenizer that is missing or cannot be read.

    `own_tokenizer`: the tokenizer is read from this folder, so it must be there.
    """
    config = read_json_object(folder / "config.json")
    for names in REQUIRED:
        if not any(name in config for name in names):
            raise CheckpointError(f"{folder / 'config.json'}: {names[0]}: missing")
    for path in sorted(set(weight_map(folder).values())):
        if not files.is_file(path):
            raise CheckpointError(f"{path}: there is no such file, but the index of the checkpoint names it")
        if path.suffix == ".safetensors":
            _check_safetensors(path)
    if own_tokenizer and not any((folder / name).is_file() for name in TOKENIZERS):
        raise CheckpointError(
            f"{folder}: no tokenizer: none of {', '.join(TOKENIZERS)} is there; add one, or name one with tokenizer="
        )


def weight_map(folder: Path) -> dict[str, Path]:
    """Key -> file, from the index of a checkpoint in shards.  For a checkpoint in one file: `*` -> that file.

    Raises:
        CheckpointError: there are no weights, or the index cannot be read.
    """
    # In the order in which transformers looks for them.
    for index, single in zip(INDICES, WEIGHTS, strict=True):
        if (folder / single).is_file():
            return {"*": folder / single}
        if (folder / index).is_file():
            return {key: folder / name for key, name in read_weight_map(folder / index).items()}
    raise CheckpointError(f"{folder}: no weights: none of {', '.join((*WEIGHTS, *INDICES))} is there")


def _check_safetensors(path: Path) -> None:
    """Opening the file compares its length with its header."""
    try:
        with safe_open(path, framework="pt"):
            pass
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path}: not a readable safetensors file: {error}; fetch it again") from None


class _Report(logging.Handler):
    """Collects the rows of transformers' load report (5.x) or the keys in its one-line warnings (4.x)."""

    def __init__(self) -> None:
        super().__init__(level=logging.WARNING)
        self.rows: list[tuple[str, str]] = []
        """(key, status)."""

    def emit(self, record: logging.LogRecord) -> None:
        text = _COLOURS.sub("", record.getMessage())
        if "LOAD REPORT" in text:
            cells = [line.split("|") for line in text.splitlines() if "|" in line]
            self.rows += [(row[0].strip(), row[1].strip()) for row in cells if row[1].strip() in _REASONS]
            return
        for words, status in (("newly initialized", "MISSING"), ("were not used", "UNEXPECTED")):
            if words in text:
                self.rows += [(key, status) for key in re.findall(r"'([^']+)'", text.partition(words)[2])]


@contextmanager
def exact_checkpoint(folder: Path) -> Iterator[None]:
    """A block that loads a model from `folder` raises CheckpointError for every key that does not fit the model.

    A pickle that holds anything but tensors is refused as well, and none of its code runs.
    """
    logger, handler = logging.getLogger("transformers"), _Report()
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(min(level, logging.WARNING) if level else logging.WARNING)
    failure: Exception | None = None
    try:
        yield
    except (pickle.UnpicklingError, EOFError, RuntimeError) as error:
        failure = error
    finally:
        logger.setLevel(level)
        logger.removeHandler(handler)
    if handler.rows:
        named = weight_map(folder)
        reasons = [f"{_file(named, key, folder)}: {key}: {_REASONS[status]}" for key, status in handler.rows]
        raise CheckpointError("\n".join(reasons)) from None
    if failure is not None:
        if isinstance(failure, RuntimeError) and "PytorchStreamReader" not in str(failure):
            raise failure
        reason = describe_refusal(failure)
        raise CheckpointError(f"{_file_names(folder)}: not a readable state dict of tensors: {reason}") from None


def _file_names(folder: Path) -> str:
    return ", ".join(str(path) for path in sorted(set(weight_map(folder).values())))


def _file(named: Mapping[str, Path], key: str, folder: Path) -> Path:
    index = next((folder / name for name in INDICES if (folder / name).is_file()), folder)
    return named.get(key) or named.get("*") or index
