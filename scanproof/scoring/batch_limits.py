"""How much a batch may take: no more than plain would."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from scanproof.scoring.engine import Limits
from scanproof.scoring.prefix_tree import Asked

SHARE = 0.5
"""Of the memory that is free, for states."""
ROWS = 64
"""Rows of a batch where the model has no fixed batch size."""


def limits(model: Any, requests: Sequence[Asked]) -> Limits:
    """Limits of an lm-eval model for some requests.

    A batch gets as many positions as plain's largest, and states the memory that plain would need for that batch's
    logits, which this engine does not make, or half of what is free where that is less.
    """
    rows = model.batch_size if isinstance(model.batch_size, int) else ROWS
    positions = rows * max((len(each.tokens) for each in requests), default=1)
    weight = next(model.model.parameters())
    logits = 2 * positions * model.vocab_size * weight.element_size()
    return Limits(positions, min(logits, SHARE * free(model.device)))


def free(device: torch.device) -> float:
    """Bytes that are free where a model computes."""
    if device.type == "cuda":
        return float(torch.cuda.mem_get_info(device)[0])
    import psutil

    return float(psutil.virtual_memory().available)
