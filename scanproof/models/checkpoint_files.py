"""Choose the files of a hub repository that an evaluation needs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from typing import Literal

RepoType = Literal["model", "dataset"]


_PROSE = ("*.md", "*.png", "*.jpg", "*.jpeg", "*.gif", "*.svg", "*.pdf", "*.ipynb", "*.gitattributes", "*.gitignore")
_OTHER_FORMATS = (
    "*.msgpack", "*.h5", "*.ot", "*.onnx", "*.onnx_data", "*.tflite", "*.gguf", "*.mlmodel", "*.nemo",
    "onnx/*", "coreml/*", "openvino/*", "original/*", "flax/*", "tf/*", "gguf/*",
)  # fmt: skip
_TRAINING = ("optimizer.*", "scheduler.*", "rng_state*", "training_args*", "trainer_state*")
_PICKLED = ("*.bin", "*.bin.index.json", "*.pt", "*.pth", "*.ckpt")
_ROWS = (
    ".parquet", ".json", ".jsonl", ".csv", ".tsv", ".txt", ".arrow", ".xml",
    ".zip", ".gz", ".bz2", ".xz", ".zst", ".tar",
)  # fmt: skip
"""How the names of files end that hold rows of a dataset, or archives of them."""
_WEIGHTS = ("*.safetensors", "*.index.json", *_PICKLED)


def is_wanted(file: str, files: Sequence[str], kind: RepoType, *, weights: bool = True) -> bool:
    """Whether an evaluation needs a file of a repository: one format of weights, no prose, no training state.

    Args:
        files: all files of the repository.
        weights: False leaves out the weights: config and tokenizer only.
    """
    if kind == "dataset":
        return not _matches(file, (*_PROSE[1:], "*.py"))
    if not weights:
        return "/" not in file and not _matches(file, (*unwanted(tensors=True), *_WEIGHTS))
    tensors = any(other.endswith(".safetensors") and "/" not in other for other in files)
    return not _matches(file, unwanted(tensors=tensors))


def is_script(files: Sequence[str]) -> bool:
    """Whether a dataset's repository holds Python, and no file that rows could be in."""
    return any(file.endswith(".py") for file in files) and not any(file.endswith(_ROWS) for file in files)


def unwanted(*, tensors: bool) -> tuple[str, ...]:
    """Patterns of a model's files that no evaluation reads; `tensors`: it has safetensors, so pickles are not read."""
    return (*_PROSE, *_OTHER_FORMATS, *_TRAINING, *(_PICKLED if tensors else ()))


def _matches(file: str, patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(file, pattern) for pattern in patterns)
