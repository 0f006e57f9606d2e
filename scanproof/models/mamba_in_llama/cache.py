"""The cache of a hybrid during generation: keys and values of attention, states of the mixers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn

import torch
from torch import Tensor
from transformers import DynamicCache

from scanproof.models.mamba_in_llama.mixers import MixerState

# Any, because its annotations differ between versions of transformers.
_Cache: Any = DynamicCache


class HybridCache(_Cache):  # type: ignore[misc]
    """transformers' cache for the attention layers, numbered among themselves from 0, and a state for each mixer."""

    def __init__(self) -> None:
        super().__init__()
        self.states: dict[int, MixerState] = {}
        self.seen = 0
        """Number of positions that the model has read so far."""
        self.real: Tensor | None = None
        """(b, l) bool, for the current call: False where a position is padding; None where there is none."""
        self.asked: set[int] = set()
        """Layers that asked for their state in the current call."""

    def state(self, layer: int) -> MixerState:
        """The state of the mixer in `layer`, empty at first."""
        self.asked.add(layer)
        return self.states.setdefault(layer, MixerState())

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Number of earlier positions; not counted from keys, because a model may have no attention layer."""
        return self.seen

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """For beam search: the new row i is the old row `beam_idx[i]`."""
        super().reorder_cache(beam_idx)
        self._change_states(lambda rows: rows.index_select(0, beam_idx.to(rows.device)))

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeat each row `repeats` times, one after the other."""
        super().batch_repeat_interleave(repeats)
        self._change_states(lambda rows: rows.repeat_interleave(repeats, dim=0))

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep only the rows `indices`."""
        super().batch_select_indices(indices)
        self._change_states(lambda rows: rows[indices])

    def reset(self) -> None:
        """Remove all keys, values and states."""
        super().reset()
        self.states.clear()
        self.seen = 0

    def crop(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Not supported: a state cannot go back to an earlier position."""
        raise NotImplementedError("a Mamba state cannot go back to an earlier position; use another way of decoding")

    def _change_states(self, change: Callable[[Tensor], Tensor]) -> None:
        for state in self.states.values():
            if state.conv is not None and state.ssm is not None:
                state.conv, state.ssm = change(state.conv), change(state.ssm)


def find_padding(attention_mask: Any, length: int) -> Tensor | None:
    """The last `length` positions of a mask, (b, length) bool, False where it hides one; None where it hides none."""
    if not isinstance(attention_mask, Tensor) or attention_mask.dim() != 2:
        return None
    real = attention_mask[:, -length:].bool()
    return None if bool(torch.all(real)) else real
