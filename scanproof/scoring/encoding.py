"""Texts as tokens, every word encoded once.

lm-eval encodes each context with each of its continuations, and each context alone: the same examples and questions
again and again.  A byte-level BPE tokenizer splits a text with GPT-2's pattern first and joins nothing across the
parts; in that pattern white space stands only at the beginning of a part.  So a text may be cut before white space that
follows something else, and the tokens of the pieces are the tokens of the text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from functools import lru_cache
from itertools import chain
from typing import Any

CUT = re.compile(r"(?<=[!-~])(?=[ \n])")
"""Before white space, behind what no version of Unicode takes for white space or joins with it."""
TEXTS = 1024
"""Whole texts that are remembered: a context comes again with its next continuation, and their tokens take memory."""
Encode = Callable[..., list[int]]


def remembering(encode: Encode, tokenizer: Any) -> Encode:
    """An lm-eval model's `tok_encode` that encodes no word twice where that is exact, else no text again soon."""
    exact = splits(tokenizer)

    @lru_cache(maxsize=None if exact else TEXTS)
    def known(piece: str, args: tuple[Any, ...], options: tuple[tuple[str, Any], ...]) -> tuple[int, ...]:
        return tuple(encode(piece, *args, **dict(options)))

    def remembered(text: str, *args: Any, **options: Any) -> list[int]:
        # What is cut off a text cannot be cut off its pieces.
        pieces = CUT.split(text) if exact and not args and not options.get("left_truncate_len") else [text]
        asked = (args, tuple(sorted(options.items())))
        return list(chain.from_iterable(known(piece, *asked) for piece in pieces))

    return remembered


def splits(tokenizer: Any) -> bool:
    """Whether a tokenizer is one whose texts may be cut."""
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
        and all(_whole(token) for token in parts["added_tokens"])
    )


def _adds_nothing(processor: dict[str, Any] | None) -> bool:
    """Whether no token is put before or behind a text."""
    if processor is None or processor["type"] == "ByteLevel":
        return True
    return processor["type"] == "TemplateProcessing" and not processor["special_tokens"]


def _whole(token: dict[str, Any]) -> bool:
    """Whether a cut neither goes through an added token nor changes what it takes with it."""
    takes = token["lstrip"] or token["rstrip"] or token["single_word"]
    return not takes and CUT.search(token["content"]) is None
