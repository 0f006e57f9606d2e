"""What our model classes for lm-eval have in common: which arguments they refuse, and where a checkpoint lies."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from scanproof.models.layout import CheckpointError

UNSUPPORTED = (
    "parallelize", "tp_plan", "peft", "delta", "autogptq", "gptqmodel", "gguf_file", "quantization_config",
    "subfolder", "trust_remote_code",
)  # fmt: skip
"""Arguments of lm-eval's `hf` that change what it loads and that our classes have no way for."""


def check_arguments(name: str, device: str, arguments: Mapping[str, Any]) -> None:
    """Raise ValueError for an argument that the model class `name` does not support, or a GPU that is not there."""
    if used := [each for each in UNSUPPORTED if arguments.get(each)]:
        raise ValueError(f"{used[0]}={arguments[used[0]]!r}: the model class {name} does not support it")
    if device.startswith("cuda") and not torch.cuda.is_available():
        # lm-eval would go on with the CPU and record a GPU's number.
        raise ValueError(f"device={device}: there is no GPU here; use device=cpu")


def checkpoint_folder(pretrained: str, revision: str) -> Path:
    """The folder of a checkpoint; a name on the hub is fetched at one commit.

    Raises:
        CheckpointError: no such folder, and no such name on the hub or no way to reach it.
    """
    if Path(pretrained).is_dir():
        return Path(pretrained)
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OfflineModeIsEnabled

    from scanproof.models.snapshot import snapshot

    try:
        return Path(snapshot(pretrained, revision)[0])
    except (HFValidationError, LocalEntryNotFoundError, HfHubHTTPError, OfflineModeIsEnabled) as error:
        reason = str(error).partition("\n")[0]
        raise CheckpointError(
            f"{pretrained}: there is no such folder (working directory {Path.cwd()}), and the hub gave no such model "
            f"at revision {revision}: {reason}"
        ) from error
