"""The `mamba2_hybrid_megatron` model class for lm-eval."""

from __future__ import annotations

from typing import Any

import torch
from lm_eval.models.huggingface import HFLM
from lm_eval.models.utils_hf import get_dtype

from scanproof.models.adapter import check_arguments, checkpoint_folder
from scanproof.models.megatron.conversion import build
from scanproof.models.megatron.reading import read_checkpoint
from scanproof.models.megatron.tokenizer import read_tokenizer, special_ids


class MegatronHybrid(HFLM):  # type: ignore[misc]
    """NVIDIA's Mamba-2 hybrid, read from Megatron's folder into transformers' NemotronH.

    transformers takes the CUDA kernels of mamba_ssm and causal_conv1d where they are installed and its own PyTorch
    path elsewhere.
    """

    def __init__(
        self,
        pretrained: str,
        revision: str = "main",
        device: str = "cuda",
        dtype: str | torch.dtype = "bfloat16",
        tokenizer: Any = None,
        **kwargs: Any,
    ) -> None:
        """Arguments as lm-eval's `hf`; `pretrained` is a folder, or a name on the hub, of which `revision` is fetched.

        Raises:
            CheckpointError: neither is there, or the files cannot be used.
            ValueError: a GPU is asked for and none is there, or an argument is not supported.
        """
        check_arguments("mamba2_hybrid_megatron", device, kwargs)
        folder = checkpoint_folder(pretrained, revision)
        self._checkpoint: Any = read_checkpoint(folder)
        tokenizer = tokenizer or read_tokenizer(folder, self._checkpoint.vocab_size)
        super().__init__(
            pretrained=str(folder),
            backend=kwargs.pop("backend", "causal"),
            revision=revision,
            device=device,
            dtype="bfloat16" if dtype == "auto" else dtype,
            tokenizer=tokenizer,
            **kwargs,
        )

    def _get_config(self, pretrained: str, **kwargs: Any) -> None:
        # The model brings its config along: the folder's own config.json describes nothing.
        self._config = None

    def _create_model(self, pretrained: str, dtype: str | torch.dtype = "bfloat16", **kwargs: Any) -> None:
        self._model = build(self._checkpoint, get_dtype(dtype), self.device, special_ids(self.tokenizer))
        self._config = self._model.config
        self._checkpoint = None
