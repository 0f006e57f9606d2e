"""Encode texts to tokens, each word once.

lm-eval encodes each context with each of its continuations, and each context alone, so that it encodes the same
examples and questions many times.  A byte-level BPE tokenizer first splits a text into parts with GPT-2's pattern, and
never joins characters of two parts into one token.  In that pattern white space occurs only at the beginning of a part.
So a text may be cut before white space that follows another character: the tokens of the pieces are then the tokens of
the text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from functools import lru_cache
from itertools import chain
from typing import Any

CUT = re.compile(r"(?<=[!-~])(?=[ \n])")
"""Cut before a space or newline that follows a printable ASCII character other than a space.

In no version of Unicode is such a character white space, or joined with the white space that follows it.
"""
TEXTS = 1024
"""Whole texts whose tokens are kept: a context comes again with its next continuation.  More would take memory."""
Encode = Callable[..., list[int]]


def encode_words_once(encode: Encode, tokenizer: Any) -> Encode:
    """Cache an lm-eval model's `tok_encode`: by words where that gives the same tokens, else by whole texts."""
    exact = can_cut(tokenizer)

    @lru_cache(maxsize=None if exact else TEXTS)
    def encode_piece(piece: str, args: tuple[Any, ...], options: tuple[tuple[str, Any], ...]) -> tuple[int, ...]:
        return tuple(encode(piece, *args, **dict(options)))

    def encode_text(text: str, *args: Any, **options: Any) -> list[int]:
        # Truncation applies to the whole text, not to its pieces.
        pieces = CUT.split(text) if exact and not args and not options.get("left_truncate_len") else [text]
        arguments = (args, tuple(sorted(options.items())))
        return list(chain.from_iterable(encode_piece(piece, *arguments) for piece in pieces))

    return encode_text


def can_cut(tokenizer: Any) -> bool:
    """Whether the tokens of a text's pieces, cut at CUT, are the tokens of the text."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return False
    parts = json.loads(backend.to_str())
    before, model = parts["pre_tokenizer"] or {}, parts["model"]
    return (
        model["type"] == "BPE"
        and not model.get("dropout")
        and before.get("type") == "ByteLevel"
        and before.get("use_regex") is True
        and before.get("add_prefix_space") is False
        and (parts["normalizer"] or {"type": "NFC"})["type"] == "NFC"
        and _adds_nothing(parts["post_processor"])
        and not parts["truncation"]
        and not parts["padding"]
        and all(_survives_cuts(token) for token in parts["added_tokens"])
    )


def _adds_nothing(processor: dict[str, Any] | None) -> bool:
    """Whether the post-processor adds no token before or after a text."""
    if processor is None or processor["type"] == "ByteLevel":
        return True
    return processor["type"] == "TemplateProcessing" and not processor["special_tokens"]


def _survives_cuts(token: dict[str, Any]) -> bool:
    """Whether no cut can fall inside this added token or change the white space that it absorbs."""
    takes = token["lstrip"] or token["rstrip"] or token["single_word"]
    return not takes and CUT.search(token["content"]) is None
