"""Refuse an incomplete checkpoint.  transformers only logs which tensors are missing, and fills them at random."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_COLOURS = re.compile(r"\x1b\[[0-9;]*m")


class IncompleteCheckpoint(Exception):
    """A checkpoint that lacks tensors of its model, or its tokenizer; the message names what is missing."""


def check_tokenizer(model: Any, name: str) -> None:
    """Refuse a tokenizer without a vocabulary, which transformers makes for a folder without tokenizer files.

    Raises:
        IncompleteCheckpoint: ordinary text gives no tokens.
    """
    tokenizer = getattr(model, "tokenizer", None)
    if tokenizer is not None and not tokenizer.encode("a b", add_special_tokens=False):
        raise IncompleteCheckpoint(
            f"{name}: no tokenizer: its files (tokenizer.json, tokenizer.model or vocab.json, with "
            "tokenizer_config.json) are missing or hold no vocabulary"
        )


class _MissingTensors(logging.Handler):
    """Collects the names of missing tensors from transformers' load report, or from its older one-line warning."""

    def __init__(self) -> None:
        super().__init__(level=logging.WARNING)
        self.names: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        text = _COLOURS.sub("", record.getMessage())
        if "newly initialized" in text and "LOAD REPORT" not in text:
            self.names += re.findall(r"'([^']+)'", text.partition("newly initialized")[2])
        if "LOAD REPORT" in text:
            rows = [line.split("|") for line in text.splitlines() if "MISSING" in line and "|" in line]
            self.names += [row[0].strip() for row in rows]


@contextmanager
def require_complete_checkpoint() -> Iterator[None]:
    """Raise IncompleteCheckpoint at the end of the block if a model was loaded in it with missing tensors."""
    logger = logging.getLogger("transformers")
    handler, level = _MissingTensors(), logger.level
    logger.addHandler(handler)
    # The report must be seen even if the user set transformers to be quiet.
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(level)
        logger.removeHandler(handler)
    if handler.names:
        listed = ", ".join(handler.names[:5]) + (" and more" if len(handler.names) > 5 else "")
        raise IncompleteCheckpoint(f"{len(handler.names)} tensors are missing from the checkpoint: {listed}")
