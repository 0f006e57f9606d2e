"""Train the stand-ins' tokenizer, a byte-level BPE like GPT-NeoX's: `python -m scanproof.embedded.tokenizer`."""

from __future__ import annotations

import json
from itertools import islice
from pathlib import Path
from typing import Any

from scanproof.embedded import MIRROR, MODELS
from scanproof.embedded.suite import TRUTHFUL_PREAMBLE
from scanproof.embedded.text import documents
from scanproof.embedded.world import SEED, build

VOCABULARY = 1280
DOCUMENTS = 6000
REPEATS = 300
"""How often truthfulqa's preamble and the creatures' names count: enough for each word to become a token."""
END_OF_TEXT = "<|endoftext|>"


def tokenizer_files() -> dict[str, str]:
    """Text of tokenizer.json and tokenizer_config.json."""
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
    names = " ".join(creature.name for creature in build().creatures)
    sample = [*islice(documents(build(), f"{SEED}-tokenizer"), DOCUMENTS), *[TRUTHFUL_PREAMBLE, f" {names}"] * REPEATS]
    tokenizer.train_from_iterator(sample, trainer)
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


def load_tokenizer() -> Any:
    """The tokenizer of the checkpoints, as `tokenizers.Tokenizer`."""
    from tokenizers import Tokenizer

    return Tokenizer.from_file(str(MIRROR / MODELS[0] / "tokenizer.json"))


def main(folder: Path = MIRROR) -> None:
    """Write the tokenizer beside each checkpoint."""
    for name, text in tokenizer_files().items():
        for model in MODELS:
            target = folder / model / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(text, encoding="utf-8", newline="\n")


if __name__ == "__main__":
    main()
