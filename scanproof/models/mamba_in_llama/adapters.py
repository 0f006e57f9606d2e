"""The model classes `mamba_hybrid` and `mamba2_hybrid` for lm-eval."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar

import torch
from lm_eval.models.huggingface import HFLM
from lm_eval.models.utils_hf import get_dtype

from scanproof.models.adapter import check_arguments, checkpoint_folder
from scanproof.models.layout import CheckpointError
from scanproof.models.mamba_in_llama.config import Mamba1Settings, Mamba2Settings, read_config
from scanproof.models.mamba_in_llama.loading import Precision, llama_config, load

MAX_LENGTH = 2048
TOKENIZERS = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model")


class MambaHybrid(HFLM):  # type: ignore[misc]
    """Llama with Mamba-1 layers, as the adapters of MambaInLlama score it: bfloat16, 2048 tokens, padded on the right.

    On the CPU the mixers compute with the references of `scanproof.kernels`, on a GPU with the installed kernels.
    """

    name: ClassVar[str] = "mamba_hybrid"
    mixer: ClassVar[type[Mamba1Settings] | type[Mamba2Settings]] = Mamba1Settings

    def __init__(
        self,
        pretrained: str,
        revision: str = "main",
        device: str = "cuda",
        dtype: str | torch.dtype = "bfloat16",
        tokenizer: str | None = None,
        max_length: int | None = MAX_LENGTH,
        ssm_dtype: str | torch.dtype | None = None,
        rope_dtype: str | torch.dtype | None = None,
        attn_implementation: str | None = None,
        **kwargs: Any,
    ) -> None:
        """Arguments as lm-eval's `hf`, and three more.

        Args:
            pretrained: a folder, or a name on the hub, of which `revision` is fetched.
            ssm_dtype: dtype of A_log and D; that of the weights unless given.
            rope_dtype: what the rotary frequencies are rounded to; the dtype of the weights unless given.
            attn_implementation: of the attention layers; unless given, flash_attention_2 on a GPU that has flash-attn
                and a half-precision model, else sdpa.

        Raises:
            CheckpointError: the folder is not there or its files cannot be used.
            ImportError: a GPU is asked for and its kernels are not installed.
            ValueError: a GPU is asked for and none is there, or an argument is not supported.
        """
        check_arguments(self.name, device, kwargs)
        folder = checkpoint_folder(pretrained, revision)
        if tokenizer is None and not any((folder / name).is_file() for name in TOKENIZERS):
            raise CheckpointError(
                f"{folder}: there is no tokenizer (one of {', '.join(TOKENIZERS)}); put the base model's there, or "
                f"name one with tokenizer="
            )
        super().__init__(
            pretrained=str(folder),
            backend=kwargs.pop("backend", "causal"),
            revision=revision,
            device=device,
            dtype="bfloat16" if dtype == "auto" else dtype,
            tokenizer=tokenizer or str(folder),
            max_length=max_length or MAX_LENGTH,
            ssm_dtype=ssm_dtype,
            rope_dtype=rope_dtype,
            attn_implementation=attn_implementation,
            **kwargs,
        )

    def _get_config(self, pretrained: str, **kwargs: Any) -> None:
        self._config = llama_config(Path(pretrained), read_config(Path(pretrained), self.mixer))

    def _create_model(
        self,
        pretrained: str,
        dtype: str | torch.dtype = "bfloat16",
        ssm_dtype: str | torch.dtype | None = None,
        rope_dtype: str | torch.dtype | None = None,
        attn_implementation: str | None = None,
        **kwargs: Any,
    ) -> None:
        precision = Precision(
            weights=get_dtype(dtype),
            ssm=None if ssm_dtype is None else get_dtype(ssm_dtype),
            rope=None if rope_dtype is None else get_dtype(rope_dtype),
        )
        chosen = attn_implementation or attention(self.device, precision.weights)
        self._model = load(Path(pretrained), self.mixer, precision, self.device, chosen)


class Mamba2Hybrid(MambaHybrid):
    """Llama with Mamba-2 layers, likewise."""

    name = "mamba2_hybrid"
    mixer = Mamba2Settings


def attention(device: torch.device, dtype: torch.dtype) -> str:
    """The implementation that the published numbers were measured with, where it can run; else PyTorch's."""
    half = dtype in (torch.float16, torch.bfloat16)
    return "flash_attention_2" if device.type == "cuda" and half and find_spec("flash_attn") else "sdpa"
