"""The model classes `mamba_hybrid` and `mamba2_hybrid` for lm-eval."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar

import torch
from lm_eval.models.utils_hf import get_dtype

from scanproof.models.adapter import CheckpointModel
from scanproof.models.layout import CheckpointError
from scanproof.models.mamba_in_llama.config import Mamba1Settings, Mamba2Settings, read_config
from scanproof.models.mamba_in_llama.loading import Precision, llama_config, load

TOKENIZERS = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model")


class MambaHybrid(CheckpointModel):
    """Llama with Mamba-1 layers, scored as MambaInLlama's lm-eval adapters do: bfloat16, 2048 tokens, right padding.

    On the CPU the mixers compute with the references of `scanproof.kernels`, on a GPU with the installed kernels.

    Arguments beyond those of `CheckpointModel`:
        ssm_dtype: dtype of A_log and D; by default that of the weights.
        rope_dtype: dtype to which the rotary frequencies are rounded; by default that of the weights.
        attn_implementation: of the attention layers; by default flash_attention_2 for a half-precision model on a GPU
            where flash-attn is installed, else sdpa.
    """

    name = "mamba_hybrid"
    mixer: ClassVar[type[Mamba1Settings] | type[Mamba2Settings]] = Mamba1Settings
    default_max_length = 2048

    def choose_tokenizer(self, folder: Path, given: Any) -> Any:
        """Without one given, the folder's own."""
        if given is None and not any((folder / name).is_file() for name in TOKENIZERS):
            raise CheckpointError(
                f"{folder}: there is no tokenizer (one of {', '.join(TOKENIZERS)}); put the base model's there, or "
                f"name one with tokenizer="
            )
        return given or str(folder)

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
        chosen = attn_implementation or choose_attention(self.device, precision.weights)
        self._model = load(Path(pretrained), self.mixer, precision, self.device, chosen)


class Mamba2Hybrid(MambaHybrid):
    """The same with Mamba-2 layers."""

    name = "mamba2_hybrid"
    mixer = Mamba2Settings


def choose_attention(device: torch.device, dtype: torch.dtype) -> str:
    """flash-attn, which the published numbers were measured with, where it can run; else PyTorch's attention."""
    half = dtype in (torch.float16, torch.bfloat16)
    return "flash_attention_2" if device.type == "cuda" and half and find_spec("flash_attn") else "sdpa"
