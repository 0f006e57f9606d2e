"""The SentencePiece tokenizer of a Megatron checkpoint folder, as transformers and lm-eval use it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from scanproof.models.layout import CheckpointError

PATTERN = "*.model"
"""The published folders hold one such file, mt_nlg_plus_multilingual_ja_zh_the_stack_frac_015_256k.model."""


def tokenizer_file(folder: Path) -> Path:
    """The SentencePiece file of `folder`.

    Raises:
        CheckpointError: there is no such file, or more than one.
    """
    files = sorted(folder.glob(PATTERN))
    if not files:
        raise CheckpointError(f"{folder / PATTERN}: there is no such file; the tokenizer is needed beside the weights")
    if len(files) > 1:
        raise CheckpointError(f"{folder}: {', '.join(file.name for file in files)}: which one is the tokenizer?")
    return files[0]


def read_tokenizer(folder: Path, vocab_size: int) -> Any:
    """A transformers tokenizer that returns SentencePiece's ids, as Megatron's tokenizer does.

    Megatron's GPTSentencePieceTokenizer calls `encode_as_ids` on the text and adds nothing.  BertGenerationTokenizer
    is transformers' simplest wrapper of SentencePiece.  Its options are set so that it adds no special token to the
    vocabulary and finds none in the text.

    Raises:
        CheckpointError: there is no file, it is no SentencePiece model, or it has more pieces than the embedding has
            rows (`vocab_size`).
    """
    from sentencepiece import SentencePieceProcessor
    from transformers import BertGenerationTokenizer

    path = tokenizer_file(folder)
    try:
        model = SentencePieceProcessor(model_file=str(path))
    except (RuntimeError, OSError) as error:
        raise CheckpointError(f"{path}: not a SentencePiece model: {error}") from error
    if model.vocab_size() > vocab_size:
        raise CheckpointError(f"{path}: has {model.vocab_size()} pieces, the model has {vocab_size} embeddings")
    if model.eos_id() < 0:
        raise CheckpointError(f"{path}: has no end-of-sequence piece, which Megatron's tokenizer needs")
    end = model.id_to_piece(model.eos_id())
    begin = model.id_to_piece(model.bos_id()) if model.bos_id() >= 0 else None
    return BertGenerationTokenizer(
        str(path),
        bos_token=begin,
        eos_token=end,
        unk_token=model.id_to_piece(model.unk_id()),
        pad_token=end,
        sep_token=end,
        split_special_tokens=True,
        clean_up_tokenization_spaces=False,
    )


def special_ids(tokenizer: Any) -> dict[str, int | None]:
    """bos_token_id, eos_token_id and pad_token_id of a tokenizer, for a model's config."""
    return {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")}
