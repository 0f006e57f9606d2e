"""The `mamba_ssm` model class for lm-eval: checkpoints of the state-spaces layout from a local folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NoReturn

import torch
from lm_eval.models.huggingface import HFLM
from lm_eval.models.utils_hf import get_dtype

from scanproof.models.layout import CheckpointError, read_config
from scanproof.models.loading import load, read_checkpoint

DEFAULT_TOKENIZER = "EleutherAI/gpt-neox-20b"
MAX_LENGTH = 2048
UNSUPPORTED = (
    "parallelize",
    "tp_plan",
    "peft",
    "delta",
    "autogptq",
    "gptqmodel",
    "gguf_file",
    "quantization_config",
    "subfolder",
    "trust_remote_code",
)


class StateSpaces(HFLM):  # type: ignore[misc]
    """Mamba-1, Mamba-2 and their attention hybrids.

    On the CPU the model is the reference of `scanproof.models`; on a GPU it is mamba_ssm's MambaLMHeadModel,
    so that the kernels under test compute the numbers.  Both read the same folder: config.json with
    model.safetensors or pytorch_model.bin.  The folder is the revision: nothing is looked up on the hub.
    """

    def __init__(
        self,
        pretrained: str,
        revision: str = "main",
        device: str = "cuda",
        dtype: str | torch.dtype = "float16",
        tokenizer: str | None = None,
        max_length: int | None = MAX_LENGTH,
        **kwargs: Any,
    ) -> None:
        """Arguments as lm-eval's `hf`; `pretrained` is a folder, or its name below the working directory.

        Raises:
            CheckpointError: the folder is not there or its files cannot be used.
            ValueError: a GPU is asked for and none is there, or an argument is not supported.
        """
        folder = Path(pretrained)
        if not folder.is_dir():
            raise CheckpointError(
                f"{pretrained}: there is no such folder (working directory {Path.cwd()}); a checkpoint is read "
                f"from a local snapshot or a mirror folder"
            )
        if device.startswith("cuda") and not torch.cuda.is_available():
            # lm-eval would go on with the CPU and record a GPU's number.
            raise ValueError(f"device={device}: there is no GPU here; use device=cpu")
        own = (folder / "tokenizer.json").is_file() or (folder / "tokenizer_config.json").is_file()
        super().__init__(
            pretrained=pretrained,
            backend=kwargs.pop("backend", "causal"),
            revision=revision,
            device=device,
            dtype="float16" if dtype == "auto" else dtype,
            tokenizer=tokenizer or (pretrained if own else DEFAULT_TOKENIZER),
            max_length=max_length or MAX_LENGTH,
            **kwargs,
        )

    def _get_config(self, pretrained: str, **kwargs: Any) -> None:
        self._config = read_config(Path(pretrained) / "config.json")

    def _create_model(self, pretrained: str, dtype: str | torch.dtype = "float16", **kwargs: Any) -> None:
        if used := [name for name in UNSUPPORTED if kwargs.get(name)]:
            raise ValueError(f"{used[0]}={kwargs[used[0]]!r}: the model class mamba_ssm does not support it")
        kind = get_dtype(dtype)
        if self.device.type == "cpu":
            self._model = load(Path(pretrained), kind)
        else:
            self._model = _kernel_model(Path(pretrained), kind, self.device)

    def _model_generate(self, *args: Any, **kwargs: Any) -> NoReturn:
        raise NotImplementedError(
            "the model class mamba_ssm scores log-likelihoods only; tasks that generate text are not supported"
        )


def _kernel_model(folder: Path, dtype: torch.dtype, device: torch.device) -> Any:
    """mamba_ssm's own model with the checkpoint of `folder`."""
    config, state = read_checkpoint(folder)
    try:
        from mamba_ssm.models.config_mamba import MambaConfig
        from mamba_ssm.models.mixer_seq_simple import MambaLMHeadModel
    except ImportError as error:
        raise ImportError(
            f"scoring on {device} needs mamba_ssm and its kernels: {error}; install the extra `gpu`, or use device=cpu"
        ) from error
    model = MambaLMHeadModel(MambaConfig(**config.to_dict()), device=device, dtype=dtype)
    model.load_state_dict(state)
    return model.eval()
