"""The `mamba2_hybrid_megatron` model class for lm-eval."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from lm_eval.models.utils_hf import get_dtype

from scanproof.models.adapter import CheckpointModel
from scanproof.models.megatron.conversion import build
from scanproof.models.megatron.reading import read_checkpoint
from scanproof.models.megatron.tokenizer import read_tokenizer, special_ids


class MegatronHybrid(CheckpointModel):
    """NVIDIA's Mamba-2 hybrid, read from Megatron's folder into transformers' NemotronH.

    transformers uses the CUDA kernels of mamba_ssm and causal_conv1d where they are installed, and its own PyTorch
    code where they are not.
    """

    name = "mamba2_hybrid_megatron"

    def choose_tokenizer(self, folder: Path, given: Any) -> Any:
        """Without one given, Megatron's SentencePiece file in the folder."""
        self._checkpoint: Any = read_checkpoint(folder)
        return given or read_tokenizer(folder, self._checkpoint.vocab_size)

    def _get_config(self, pretrained: str, **kwargs: Any) -> None:
        # The config comes with the model: the folder's own config.json does not describe it.
        self._config = None

    def _create_model(self, pretrained: str, dtype: str | torch.dtype = "bfloat16", **kwargs: Any) -> None:
        self._model = build(self._checkpoint, get_dtype(dtype), self.device, special_ids(self.tokenizer))
        self._config = self._model.config
        # Frees the memory of the tensors as they were stored.
        self._checkpoint = None
