"""The base of our model classes for lm-eval: constructor, refused arguments, folder of the checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
from lm_eval.models.huggingface import HFLM

from scanproof.models.layout import CheckpointError

UNSUPPORTED = (
    "parallelize", "tp_plan", "peft", "delta", "autogptq", "gptqmodel", "gguf_file", "quantization_config",
    "subfolder", "trust_remote_code",
)  # fmt: skip
"""Arguments of lm-eval's `hf` that change what it loads and that our classes do not implement."""


class CheckpointModel(HFLM):  # type: ignore[misc]
    """An lm-eval model that our own code, not transformers' `from_pretrained`, loads from a checkpoint folder.

    A subclass sets the class variables and implements `choose_tokenizer`, `_get_config` and `_create_model`.
    """

    name: ClassVar[str]
    """The model's name in lm-eval."""
    default_dtype: ClassVar[str] = "bfloat16"
    """The dtype of the weights for dtype=auto, and where none is given."""
    default_max_length: ClassVar[int | None] = None
    """Tokens that the model reads at most, where none is given; None leaves it to lm-eval."""

    def __init__(
        self,
        pretrained: str,
        revision: str = "main",
        device: str = "cuda",
        dtype: str | torch.dtype = "auto",
        tokenizer: Any = None,
        max_length: int | None = None,
        **arguments: Any,
    ) -> None:
        """Arguments of lm-eval's `hf`.  lm-eval passes those that it does not know on to `_create_model`.

        Args:
            pretrained: a folder, or a model's name on the hub, which is downloaded at `revision`.
            tokenizer: name, folder or tokenizer object; see `choose_tokenizer` where it is not given.

        Raises:
            CheckpointError: the folder does not exist or its files cannot be used.
            ImportError: the device is a GPU and the kernels that the model needs are not installed.
            ValueError: the device is a GPU and there is none, or an argument is not supported.
        """
        check_arguments(self.name, device, arguments)
        folder = checkpoint_folder(pretrained, revision)
        super().__init__(
            pretrained=str(folder),
            backend=arguments.pop("backend", "causal"),
            revision=revision,
            device=device,
            dtype=self.default_dtype if dtype == "auto" else dtype,
            tokenizer=self.choose_tokenizer(folder, tokenizer),
            max_length=max_length or self.default_max_length,
            **arguments,
        )

    def choose_tokenizer(self, folder: Path, given: Any) -> Any:
        """The tokenizer argument for lm-eval's `hf`, before the model is loaded.

        Args:
            folder: of the checkpoint.
            given: the constructor's argument; None where the caller gave none.

        Raises:
            CheckpointError: `given` is None and the folder has no tokenizer.
        """
        raise NotImplementedError


def check_arguments(name: str, device: str, arguments: Mapping[str, Any]) -> None:
    """Raise ValueError for an argument that the model class `name` does not support, or a GPU that is not there."""
    if used := [argument for argument in UNSUPPORTED if arguments.get(argument)]:
        raise ValueError(f"{used[0]}={arguments[used[0]]!r}: the model class {name} does not support it")
    if device.startswith("cuda") and not torch.cuda.is_available():
        # lm-eval would compute on the CPU and record the result as a GPU's.
        raise ValueError(f"device={device}: there is no GPU here; use device=cpu")


def checkpoint_folder(pretrained: str, revision: str) -> Path:
    """The folder of a checkpoint.  A name on the hub is downloaded at the commit that `revision` means now.

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
