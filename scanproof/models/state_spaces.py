"""The `mamba_ssm` model class for lm-eval: checkpoints of the state-spaces layout from a local folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from lm_eval.models.huggingface import HFLM
from lm_eval.models.utils_hf import get_dtype

from scanproof.models.adapter import check_arguments, checkpoint_folder
from scanproof.models.against_float64.decoding import greedy
from scanproof.models.against_float64.whole_model import kernel_model
from scanproof.models.layout import read_config
from scanproof.models.loading import load

DEFAULT_TOKENIZER = "EleutherAI/gpt-neox-20b"
MAX_LENGTH = 2048
WITHOUT_EFFECT = ("temperature", "top_p", "top_k", "min_p", "use_cache")
"""Generation settings that greedy decoding does not read."""
GREEDY = {"do_sample": False, "num_beams": 1, "repetition_penalty": 1.0}
"""Generation settings with the one value that greedy decoding has."""


class StateSpaces(HFLM):  # type: ignore[misc]
    """Mamba-1, Mamba-2 and their attention hybrids.

    On the CPU the model is the reference of `scanproof.models`; on a GPU it is mamba_ssm's MambaLMHeadModel,
    so that the kernels under test compute the numbers.  Both read the same folder: config.json with
    model.safetensors or pytorch_model.bin.
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
        """Arguments as lm-eval's `hf`; `pretrained` is a folder, or a name on the hub, of which `revision` is fetched.

        Raises:
            CheckpointError: neither is there, or the files cannot be used.
            ValueError: a GPU is asked for and none is there, or an argument is not supported.
        """
        check_arguments("mamba_ssm", device, kwargs)
        folder = checkpoint_folder(pretrained, revision)
        own = (folder / "tokenizer.json").is_file() or (folder / "tokenizer_config.json").is_file()
        super().__init__(
            pretrained=str(folder),
            backend=kwargs.pop("backend", "causal"),
            revision=revision,
            device=device,
            dtype="float16" if dtype == "auto" else dtype,
            tokenizer=tokenizer or (str(folder) if own else DEFAULT_TOKENIZER),
            max_length=max_length or MAX_LENGTH,
            **kwargs,
        )

    def _get_config(self, pretrained: str, **kwargs: Any) -> None:
        self._config = read_config(Path(pretrained) / "config.json")

    def _create_model(self, pretrained: str, dtype: str | torch.dtype = "float16", **kwargs: Any) -> None:
        kind = get_dtype(dtype)
        if self.device.type == "cpu":
            self._model = load(Path(pretrained), kind)
        else:
            self._model = kernel_model(Path(pretrained), kind, self.device)

    def _model_generate(
        self,
        context: torch.Tensor,
        max_length: int,
        stop: list[str],
        attention_mask: torch.Tensor | None = None,
        **settings: Any,
    ) -> torch.Tensor:
        """Prompts as lm-eval pads them, and their greedy continuations.

        Args:
            context: (b, l) token ids, padded on the left.
            max_length: tokens of a row, l included, at most.
            stop: strings that end a row.
            attention_mask: (b, l), 0 where `context` is padded; all of it is read when None.

        Returns:
            (b, l + longest continuation); a row that ended earlier is filled with the end-of-text token.

        Raises:
            NotImplementedError: the model is on a GPU.
            ValueError: a setting asks for anything but greedy decoding.
        """
        if self.device.type != "cpu":
            raise NotImplementedError(
                f"on {self.device} the model class mamba_ssm scores log-likelihoods only; tasks that generate text "
                f"run with device=cpu"
            )
        _refuse_sampling(settings)

        def ended(tokens: list[int]) -> bool:
            text = self.tok_decode(tokens, skip_special_tokens=False)
            return tokens[-1] == self.eot_token_id or any(term and term in text for term in stop)

        mask = torch.ones_like(context) if attention_mask is None else attention_mask
        # What lm-eval scores an empty context with begins an empty prompt.
        prompts = [row[kept.bool()].tolist() or [self.prefix_token_id] for row, kept in zip(context, mask, strict=True)]
        generated = greedy(self.model, prompts, max_length - context.shape[1], ended)
        longest = max(map(len, generated))
        filled = [row + [self.eot_token_id] * (longest - len(row)) for row in generated]
        return torch.cat([context, context.new_tensor(filled).view(len(context), longest)], dim=1)


def _refuse_sampling(settings: dict[str, Any]) -> None:
    for name, value in settings.items():
        if name in WITHOUT_EFFECT or value is None or value == GREEDY.get(name):
            continue
        raise ValueError(f"{name}={value!r}: the model class mamba_ssm generates greedily and does not support it")
