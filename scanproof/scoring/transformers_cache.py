"""What transformers' attention layers go on from: a cache that hands them the keys and values of a passage.

Letters: b batch, l seqlen, s positions before, k key heads, p headdim.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin

from scanproof.scoring.carried_state import Passage

# Their annotations differ from version to version of transformers.
_Cache: Any = Cache
_Layer: Any = CacheLayerMixin


class PassageLayer(_Layer):  # type: ignore[misc]
    """An attention layer's place in a `PassageCache`: it keeps nothing itself."""

    def __init__(self, passage: Passage, slot: int) -> None:
        super().__init__()
        self.passage, self.slot = passage, slot

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Nothing to prepare."""

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """(b, k, l, p) of this pass -> (b, k, s + l, p)."""
        return self.passage.extend(self.slot, key_states, value_states)

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """(keys, number of the first)."""
        return self.passage.longest + query_length, 0

    def get_seq_length(self) -> int:
        """s."""
        return self.passage.longest

    def get_max_length(self) -> int:
        """No maximum."""
        return -1


class PassageCache(_Cache):  # type: ignore[misc]
    """What transformers' attention layers read a passage through, and HybridLlama as well."""

    def __init__(self, passage: Passage, slots: Mapping[int, int]) -> None:
        """`slots`: of each attention layer, by the number that it has for its cache."""
        count = max(slots, default=-1) + 1
        super().__init__(layers=[PassageLayer(passage, slots.get(index, -1)) for index in range(count)])
        self.states: dict[int, Any] = {}
        self.real = None
        self.seen = 0
