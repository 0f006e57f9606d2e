"""mamba_ssm's own model, in which the kernels under test compute the logits, with a state-spaces checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from scanproof.models.loading import read_checkpoint


def load_kernel_model(folder: Path, dtype: torch.dtype, device: torch.device) -> Any:
    """mamba_ssm's MambaLMHeadModel with the weights of `folder`, ready to score.

    Raises:
        CheckpointError: see `scanproof.models.loading.read_checkpoint`.
        ImportError: mamba_ssm or a package that it needs is not installed.
    """
    config, tensors, _ = read_checkpoint(folder)
    try:
        from mamba_ssm.models.config_mamba import MambaConfig
        from mamba_ssm.models.mixer_seq_simple import MambaLMHeadModel
    except ImportError as error:
        raise ImportError(
            f"scoring on {device} needs mamba_ssm and its kernels: {error}; install the extra `gpu`, or use device=cpu"
        ) from error
    model = MambaLMHeadModel(MambaConfig(**config.to_dict()), device=device, dtype=dtype)
    model.load_state_dict({key: stored.tensor for key, stored in tensors.items()})
    return model.eval()


@torch.no_grad()
def decode(model: Any, input_ids: Tensor, prefill: int) -> Tensor:
    """Logits of a sequence; mamba_ssm's model reads the first `prefill` tokens at once and the others one by one.

    Args:
        model: a MambaLMHeadModel.
        input_ids: (b, l).
        prefill: 0 to l; with 0 every token is a step, from states of zeros.

    Returns:
        (b, l, padded vocabulary).
    """
    from mamba_ssm.utils.generation import InferenceParams

    batch, length = input_ids.shape
    params = InferenceParams(max_seqlen=length + 1, max_batch_size=batch)
    params.key_value_memory_dict = model.allocate_inference_cache(batch, length + 1)
    logits = []
    if prefill:
        logits.append(model(input_ids[:, :prefill], inference_params=params).logits)
    for position in range(prefill, length):
        # For mamba_ssm offset 0 means a prefill; the recurrence does not use the number in another way.
        params.seqlen_offset = max(1, position)
        logits.append(model(input_ids[:, position : position + 1], inference_params=params).logits)
    return torch.cat(logits, dim=1)
