"""Refuse a checkpoint of which transformers only logs that tensors are missing, and fills them at random."""

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
    """Refuse the tokenizer without a vocabulary that transformers makes up for a folder without tokenizer files.

    Raises:
        IncompleteCheckpoint: ordinary text becomes no token.
    """
    tokenizer = getattr(model, "tokenizer", None)
    if tokenizer is not None and not tokenizer.encode("a b", add_special_tokens=False):
        raise IncompleteCheckpoint(
            f"{name}: no tokenizer: its files (tokenizer.json, tokenizer.model or vocab.json, with "
            "tokenizer_config.json) are missing or hold no vocabulary"
        )


class _MissingTensors(logging.Handler):
    """Collects the rows of transformers' load report that say MISSING, and its older one-line warning."""

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
def complete_checkpoint() -> Iterator[None]:
    """While the block loads a model: raises IncompleteCheckpoint at its end when tensors were made up."""
    logger = logging.getLogger("transformers")
    handler, level = _MissingTensors(), logger.level
    logger.addHandler(handler)
    # Whoever asked transformers to be quiet did not ask for made-up weights.
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(level)
        logger.removeHandler(handler)
    if handler.names:
        listed = ", ".join(handler.names[:5]) + (" and more" if len(handler.names) > 5 else "")
        raise IncompleteCheckpoint(f"{len(handler.names)} tensors are missing from the checkpoint: {listed}")
