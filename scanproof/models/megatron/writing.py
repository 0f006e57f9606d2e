"""Write a Megatron checkpoint as a transformers folder: config.json, safetensors, tokenizer."""

from __future__ import annotations

from pathlib import Path

import torch

from scanproof.files import replace_atomically
from scanproof.models.layout import CheckpointError
from scanproof.models.megatron.conversion import build
from scanproof.models.megatron.reading import read_checkpoint
from scanproof.models.megatron.tokenizer import read_tokenizer, special_ids

SHARD = "2GB"


def convert(folder: Path, out: Path, dtype: torch.dtype | None = None) -> Path:
    """Convert the checkpoint of `folder` to the new folder `out`, which the model class `hf` reads; returns `out`.

    `out` appears only when it is complete.  With `dtype` None the tensors keep their stored dtype.

    Raises:
        CheckpointError: the checkpoint cannot be read, or `out` exists.
    """
    if out.exists():
        raise CheckpointError(f"{out}: exists already; remove it, or name another folder")
    checkpoint = read_checkpoint(folder)
    tokenizer = read_tokenizer(folder, checkpoint.vocab_size)
    network = build(checkpoint, dtype, special=special_ids(tokenizer))
    with replace_atomically(out) as temporary:
        network.save_pretrained(temporary, max_shard_size=SHARD)
        tokenizer.save_pretrained(temporary)
    return out
