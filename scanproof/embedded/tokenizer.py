"""Train the stand-ins' tokenizers: `python -m scanproof.embedded.tokenizer`.

The Megatron folder gets a SentencePiece model, like NVIDIA's; all others get a byte-level BPE, like GPT-NeoX's.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from scanproof.embedded import MEGATRON, MIRROR, MODELS
from scanproof.embedded.suite import TRUTHFUL_PREAMBLE
from scanproof.embedded.text import generate_documents
from scanproof.embedded.world import SEED, build_world

VOCABULARY = 1280
DOCUMENTS = 6000
REPEATS = 300
"""Repetitions of truthfulqa's preamble and of the creatures' names, so that each of their words becomes a token."""
END_OF_TEXT = "<|endoftext|>"
SENTENCEPIECE = "tokenizer.model"
"""The only tokenizer file of a Megatron folder."""


@dataclass(frozen=True)
class Codec:
    """The parts of a tokenizer that training needs."""

    encode: Callable[[list[str]], list[list[int]]]
    """Texts -> token ids, without special tokens."""
    end: int
    """Id of the token between two documents."""


def sample_texts() -> Iterator[str]:
    """Yield the texts that the tokenizers are trained on."""
    names = " ".join(creature.name for creature in build_world().creatures)
    yield from islice(generate_documents(build_world(), f"{SEED}-tokenizer"), DOCUMENTS)
    yield from [TRUTHFUL_PREAMBLE, f" {names}"] * REPEATS


def train_byte_level() -> dict[str, str]:
    """Train the byte-level tokenizer; returns the texts of tokenizer.json and tokenizer_config.json by file name."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[END_OF_TEXT],
        show_progress=False,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
    )
    tokenizer.train_from_iterator(list(sample_texts()), trainer)
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": END_OF_TEXT,
        "bos_token": END_OF_TEXT,
        "unk_token": END_OF_TEXT,
        "model_max_length": 2048,
        "clean_up_tokenization_spaces": False,
    }
    return {
        "tokenizer.json": tokenizer.to_str(pretty=False) + "\n",
        "tokenizer_config.json": json.dumps(config, indent=2) + "\n",
    }


def train_sentencepiece() -> bytes:
    """Train a SentencePiece model that keeps white space, splits digits and falls back to bytes; returns its file."""
    from sentencepiece import SentencePieceTrainer

    target = io.BytesIO()
    SentencePieceTrainer.train(
        sentence_iterator=sample_texts(),
        model_writer=target,
        model_type="bpe",
        vocab_size=VOCABULARY,
        character_coverage=1.0,
        byte_fallback=True,
        add_dummy_prefix=False,
        remove_extra_whitespaces=False,
        split_digits=True,
        normalization_rule_name="identity",
        num_threads=1,
        minloglevel=2,
    )
    return target.getvalue()


def load_codec(folder: Path) -> Codec:
    """The tokenizer of a stand-in's folder, for training."""
    if (path := folder / SENTENCEPIECE).is_file():
        from sentencepiece import SentencePieceProcessor

        pieces = SentencePieceProcessor(model_file=str(path))
        return Codec(pieces.encode, pieces.eos_id())
    tokenizer = load_tokenizer()
    return Codec(lambda texts: [item.ids for item in tokenizer.encode_batch(texts)], 0)


def load_tokenizer() -> Any:
    """The byte-level tokenizer, as `tokenizers.Tokenizer`."""
    from tokenizers import Tokenizer

    return Tokenizer.from_file(str(MIRROR / MODELS[0] / "tokenizer.json"))


def main(folder: Path = MIRROR) -> None:
    """Write the tokenizer files into the folder of each checkpoint."""
    byte_level = {name: text.encode() for name, text in train_byte_level().items()}
    for model in MODELS:
        files = {SENTENCEPIECE: train_sentencepiece()} if model == MEGATRON else byte_level
        for name, content in files.items():
            target = folder / model / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)


if __name__ == "__main__":
    main()
