"""A transformers cache through which attention layers get the keys and values of earlier positions.

Letters: b batch, l seqlen, s earlier positions, k key heads, p headdim.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin

from scanproof.scoring.carried_state import CarriedState

# Any, because their annotations differ between versions of transformers.
_Cache: Any = Cache
_Layer: Any = CacheLayerMixin


class CarriedStateLayer(_Layer):  # type: ignore[misc]
    """The part of a `CarriedStateCache` for one attention layer; it stores nothing itself."""

    def __init__(self, carried: CarriedState, slot: int) -> None:
        super().__init__()
        self.carried, self.slot = carried, slot

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Nothing to prepare."""

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Keys and values of this pass, (b, k, l, p) -> those of all positions, (b, k, s + l, p)."""
        return self.carried.extend_keys(self.slot, key_states, value_states)

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """(number of keys s + l, offset of the first)."""
        return self.carried.longest + query_length, 0

    def get_seq_length(self) -> int:
        """s."""
        return self.carried.longest

    def get_max_length(self) -> int:
        """-1: there is no maximum."""
        return -1


class CarriedStateCache(_Cache):  # type: ignore[misc]
    """The cache of one forward pass, for transformers' models and for HybridLlama."""

    def __init__(self, carried: CarriedState, slots: Mapping[int, int]) -> None:
        """
        Args:
            slots: an attention layer's number in transformers' cache -> its slot.
        """
        count = max(slots, default=-1) + 1
        super().__init__(layers=[CarriedStateLayer(carried, slots.get(index, -1)) for index in range(count)])
        self.states: dict[int, Any] = {}
        self.real = None
        self.seen = 0
