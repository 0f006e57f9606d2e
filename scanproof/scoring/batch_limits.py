"""How large a batch may be: no larger than lm-eval's own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from scanproof.scoring.engine import Limits
from scanproof.scoring.prefix_tree import Query

SHARE = 0.5
"""Share of the free memory that states may take."""
ROWS = 64
"""Rows of a batch where the model's batch size is `auto`."""


def choose_limits(model: Any, requests: Sequence[Query]) -> Limits:
    """The limits of an lm-eval model for the requests of one call.

    A batch may have as many positions as lm-eval's largest batch would.  States may take the memory that lm-eval would
    need for the logits of that batch, because this engine does not compute them; at most half of the free memory.
    """
    rows = model.batch_size if isinstance(model.batch_size, int) else ROWS
    positions = rows * max((len(query.tokens) for query in requests), default=1)
    weight = next(model.model.parameters())
    logits = 2 * positions * model.vocab_size * weight.element_size()
    return Limits(positions, min(logits, SHARE * free_bytes(model.device)))


def free_bytes(device: torch.device) -> float:
    """Free memory of a device, in bytes."""
    if device.type == "cuda":
        return float(torch.cuda.mem_get_info(device)[0])
    import psutil

    return float(psutil.virtual_memory().available)
