"""How large a batch may be: no larger than lm-eval's own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from scanproof.scoring.network import vocabulary_projection
from scanproof.scoring.prefix_tree import Query
from scanproof.scoring.schedule import Limits

SHARE = 0.5
"""Share of the free memory that states may take."""
ROWS = 64
"""Rows of a batch where the model's batch size is `auto`."""


def choose_limits(model: Any, requests: Sequence[Query]) -> Limits:
    """The limits of an lm-eval model for the requests of one call.

    A batch may have as many positions as lm-eval's largest batch would.  States may take half of the free memory of a
    GPU, which is one job's.  On a CPU, whose memory is everybody's, they may also take no more than lm-eval would need
    for the logits of that batch, because this engine does not compute them.
    """
    positions = rows_of(model) * max((len(query.tokens) for query in requests), default=1)
    free = SHARE * free_bytes(model.device)
    if model.device.type != "cpu":
        return Limits(positions, free)
    # The model's own vocabulary: a tokenizer may know few of its tokens, and its logits are computed for all of them.
    weight = vocabulary_projection(model.model).weight
    assert isinstance(weight, Tensor)
    return Limits(positions, min(2 * positions * len(weight) * weight.element_size(), free))


def rows_of(model: Any) -> int:
    """Rows of one of lm-eval's batches."""
    return model.batch_size if isinstance(model.batch_size, int) else ROWS


def free_bytes(device: torch.device) -> float:
    """Free memory of a device, in bytes."""
    if device.type == "cuda":
        return float(torch.cuda.mem_get_info(device)[0])
    import psutil

    return float(psutil.virtual_memory().available)
