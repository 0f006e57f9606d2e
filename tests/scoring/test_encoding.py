"""Encoding a text word by word gives the tokens of the whole text."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, normalizers, pre_tokenizers, processors

from scanproof.plugin import options as options_module
from tests.support.late import Late

if TYPE_CHECKING:
    from scanproof.scoring import encoding
else:
    encoding = Late("scanproof.scoring.encoding")

SOURCE = options_module.EMBEDDED_MIRROR / "scanproof" / "mamba1-tiny"
WORDS = (
    "the", "Answer:", "A", "it's", "'s", "'", "don", "'t", "é", "e\u0301", "\u0301", "\u00a0", "\u2009", "\u3000",
    "\x1c", "\x85", "\u200b", "5", "42", "!?", "...", "<|endoftext|>", "日本", " ", "  ", "   ", "\n", "\n\n", "\r\n",
    "\t", " \n",
)  # fmt: skip
TEXTS = st.lists(st.sampled_from(WORDS) | st.text(max_size=3), max_size=20).map("".join)


def tokenizer(*, neox: bool = False) -> Any:
    """The stand-ins' tokenizer; with `neox`, NFC and tokens of several spaces are added, as in GPT-NeoX's."""
    from transformers import AutoTokenizer

    found: Any = AutoTokenizer.from_pretrained(SOURCE)
    if neox:
        found.backend_tokenizer.normalizer = normalizers.NFC()
        found.add_tokens([AddedToken(" " * count, normalized=True) for count in (2, 3, 4)])
    return found


made_once = cache(tokenizer)


@pytest.mark.parametrize("neox", [False, True], ids=["stand-in", "neox"])
@given(text=TEXTS)
def test_the_words_make_the_text(neox: bool, text: str) -> None:
    chosen = made_once(neox=neox)
    assert encoding.can_cut(chosen)
    assert encoding.encode_words_once(chosen.encode, chosen)(text) == chosen.encode(text)


def test_a_word_is_encoded_once() -> None:
    asked: list[str] = []

    def encode(text: str, **options: Any) -> list[int]:
        asked.append(text)
        return list(made_once(neox=False).encode(text, **options))

    remembered = encoding.encode_words_once(encode, made_once(neox=False))
    for choice in "ABCD":
        assert remembered(f"Pick one.\nAnswer: {choice}") == made_once(neox=False).encode(
            f"Pick one.\nAnswer: {choice}"
        )
    assert sorted(asked) == ["\nAnswer:", " A", " B", " C", " D", " one.", "Pick"]


def test_options_are_kept_apart_and_a_truncated_text_is_encoded_whole() -> None:
    def encode(text: str, left_truncate_len: int = 0, add_special_tokens: bool = True) -> list[int]:
        return [len(text), int(add_special_tokens)][-left_truncate_len:]

    remembered = encoding.encode_words_once(encode, made_once(neox=False))
    assert remembered("a b") == [1, 1, 2, 1]
    assert remembered("a b", add_special_tokens=False) == [1, 0, 2, 0]
    assert remembered("a b", left_truncate_len=1) == [1]


@pytest.mark.parametrize(
    "change",
    [
        lambda it: setattr(it.backend_tokenizer, "pre_tokenizer", pre_tokenizers.ByteLevel(add_prefix_space=True)),
        lambda it: setattr(it.backend_tokenizer, "pre_tokenizer", pre_tokenizers.Metaspace()),
        lambda it: setattr(it.backend_tokenizer, "normalizer", normalizers.Strip()),
        lambda it: setattr(it.backend_tokenizer, "post_processor", processors.BertProcessing(("a", 1), ("b", 2))),
        lambda it: it.add_tokens([AddedToken("two words")]),
        lambda it: it.add_tokens([AddedToken("<x>", rstrip=True)]),
        lambda it: it.backend_tokenizer.enable_truncation(5),
    ],
    ids=["prefix-space", "metaspace", "strip", "ends-with-a-token", "words-in-a-token", "takes-space", "truncates"],
)  # fmt: skip
def test_another_tokenizer_encodes_whole_texts(change: Any, tmp_path: Path) -> None:
    other = tokenizer()
    change(other)
    assert not encoding.can_cut(other)
    text = "Question: which of <x> two words?\nAnswer: B"
    assert encoding.encode_words_once(other.encode, other)(text) == other.encode(text)
    assert encoding.encode_words_once(lambda _: [7], object())(text) == [7]


def test_a_whole_text_is_encoded_once_while_its_continuations_come_and_is_not_kept_for_ever() -> None:
    asked: list[str] = []

    def encode(text: str) -> list[int]:
        asked.append(text)
        return [len(text)]

    remembered = encoding.encode_words_once(encode, object())
    for document in range(encoding.TEXTS):
        for answer in "ABCD":
            remembered(f"document {document}")
            remembered(f"document {document} {answer}")
    assert len(asked) == len(set(asked)) == 5 * encoding.TEXTS
    remembered("document 0")
    assert asked.count("document 0") == 2
