"""The `mamba_ssm` model class for lm-eval: checkpoints of the state-spaces layout."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from lm_eval.models.utils_hf import get_dtype

from scanproof.models.adapter import CheckpointModel
from scanproof.models.against_float64.decoding import generate_greedily
from scanproof.models.against_float64.whole_model import load_kernel_model
from scanproof.models.layout import read_config
from scanproof.models.loading import load

DEFAULT_TOKENIZER = "EleutherAI/gpt-neox-20b"
WITHOUT_EFFECT = ("temperature", "top_p", "top_k", "min_p", "use_cache")
"""Generation settings that greedy decoding ignores."""
GREEDY = {"do_sample": False, "num_beams": 1, "repetition_penalty": 1.0}
"""Generation settings and the only value of each that means greedy decoding."""


class StateSpaces(CheckpointModel):
    """Mamba-1, Mamba-2 and their attention hybrids.

    On the CPU the model is the reference of `scanproof.models`; on a GPU it is mamba_ssm's MambaLMHeadModel, so that
    the kernels under test compute the numbers.  Both read the same files: config.json with model.safetensors or
    pytorch_model.bin.
    """

    name = "mamba_ssm"
    default_dtype = "float16"
    default_max_length = 2048

    def choose_tokenizer(self, folder: Path, given: Any) -> Any:
        """Without one given, the folder's own, or that of GPT-NeoX, which the published models use."""
        own = (folder / "tokenizer.json").is_file() or (folder / "tokenizer_config.json").is_file()
        return given or (str(folder) if own else DEFAULT_TOKENIZER)

    def _get_config(self, pretrained: str, **kwargs: Any) -> None:
        self._config = read_config(Path(pretrained) / "config.json")

    def _create_model(self, pretrained: str, dtype: str | torch.dtype = "float16", **kwargs: Any) -> None:
        kind = get_dtype(dtype)
        if self.device.type == "cpu":
            self._model = load(Path(pretrained), kind)
        else:
            self._model = load_kernel_model(Path(pretrained), kind, self.device)

    def _model_generate(
        self,
        context: torch.Tensor,
        max_length: int,
        stop: list[str],
        attention_mask: torch.Tensor | None = None,
        **settings: Any,
    ) -> torch.Tensor:
        """Continue prompts greedily.

        Args:
            context: (b, l) token ids, padded on the left.
            max_length: most tokens of a row, l included.
            stop: strings; a row ends with the token after which its text contains one of them.
            attention_mask: (b, l), 0 where `context` is padded; None where nothing is padded.

        Returns:
            (b, l + longest continuation) token ids: the context as it is, then the continuation; a row that ended
            earlier is filled up with the end-of-text token.

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
        # An empty prompt starts with the token that lm-eval puts in place of an empty context.
        prompts = [row[real.bool()].tolist() or [self.prefix_token_id] for row, real in zip(context, mask, strict=True)]
        generated = generate_greedily(self.model, prompts, max_length - context.shape[1], ended)
        longest = max(map(len, generated))
        filled = [row + [self.eot_token_id] * (longest - len(row)) for row in generated]
        return torch.cat([context, context.new_tensor(filled).view(len(context), longest)], dim=1)


def _refuse_sampling(settings: dict[str, Any]) -> None:
    for name, value in settings.items():
        if name in WITHOUT_EFFECT or value is None or value == GREEDY.get(name):
            continue
        raise ValueError(f"{name}={value!r}: the model class mamba_ssm generates greedily and does not support it")
