"""What a hybrid keeps between the steps of a generation: keys and values of attention, states of the mixers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn

import torch
from torch import Tensor
from transformers import DynamicCache

from scanproof.models.mamba_in_llama.mixers import State

# Its annotations differ from version to version of transformers.
_Cache: Any = DynamicCache


class HybridCache(_Cache):  # type: ignore[misc]
    """transformers' cache for the attention layers, numbered from 0 among themselves, and a state per mixer."""

    def __init__(self) -> None:
        super().__init__()
        self.states: dict[int, State] = {}
        self.seen = 0
        """Positions that went through the model so far."""
        self.real: Tensor | None = None
        """(b, l) of the current call: False where a position is padding; None when none is."""

    def state(self, layer: int) -> State:
        """The state of the mixer in `layer`, empty at first."""
        return self.states.setdefault(layer, State())

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """How many positions came before; a model without attention layers has no keys to count."""
        return self.seen

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Row i becomes what row `beam_idx[i]` was (beam search)."""
        super().reorder_cache(beam_idx)
        self._change_states(lambda rows: rows.index_select(0, beam_idx.to(rows.device)))

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Each row `repeats` times in a row."""
        super().batch_repeat_interleave(repeats)
        self._change_states(lambda rows: rows.repeat_interleave(repeats, dim=0))

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep some of the rows."""
        super().batch_select_indices(indices)
        self._change_states(lambda rows: rows[indices])

    def reset(self) -> None:
        """Forget everything."""
        super().reset()
        self.states.clear()
        self.seen = 0

    def crop(self, *args: Any, **kwargs: Any) -> NoReturn:
        """A state cannot be taken back."""
        raise NotImplementedError("a Mamba state cannot go back to an earlier position; use another way of decoding")

    def _change_states(self, change: Callable[[Tensor], Tensor]) -> None:
        for state in self.states.values():
            if state.conv is not None and state.ssm is not None:
                state.conv, state.ssm = change(state.conv), change(state.ssm)


def find_padding(attention_mask: Any, length: int) -> Tensor | None:
    """(b, l) of the last `length` positions of a mask, False where it hides one; None when it hides none."""
    if not isinstance(attention_mask, Tensor) or attention_mask.dim() != 2:
        return None
    real = attention_mask[:, -length:].bool()
    return None if bool(torch.all(real)) else real
