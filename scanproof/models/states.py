"""The states that the layers of a model carry from one position to the next.

A forward pass returns new states and never changes one, so several continuations may start from the same state.
Letters: b batch, d channels, w width of the convolution, n dstate, h heads, p headdim, k key heads, s positions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class ScanState:
    """State of a Mamba-1 or Mamba-2 mixer."""

    conv: Tensor
    """(b, d, w - 1), the last inputs of the convolution, in the model's dtype; zeros before the first position."""
    ssm: Tensor
    """(b, d, n) in Mamba-1, (b, h, p, n) in Mamba-2; float32 or wider."""

    def rows(self, index: Tensor) -> ScanState:
        """The batch rows `index` (int64), in that order."""
        return ScanState(self.conv[index], self.ssm[index])


@dataclass(frozen=True)
class AttentionState:
    """State of an attention mixer: the keys and values of all earlier positions."""

    conv: Tensor | None
    """(b, d, w - 1), the last inputs of the convolution over q, k and v; None where there is no convolution."""
    keys: Tensor
    """(b, k, s, p), after convolution and rotation."""
    values: Tensor
    """(b, k, s, p), after convolution."""

    @property
    def seen(self) -> int:
        """Number of earlier positions, s."""
        return self.keys.shape[2]

    def rows(self, index: Tensor) -> AttentionState:
        """The batch rows `index` (int64), in that order."""
        conv = None if self.conv is None else self.conv[index]
        return AttentionState(conv, self.keys[index], self.values[index])


LayerState = ScanState | AttentionState


@dataclass(frozen=True)
class State:
    """State of a whole model."""

    layers: tuple[LayerState, ...]

    @property
    def batch(self) -> int:
        """Number of rows."""
        layer = self.layers[0]
        return len(layer.ssm if isinstance(layer, ScanState) else layer.keys)

    def rows(self, index: Sequence[int] | Tensor) -> State:
        """The batch rows `index`, in that order; an index may occur more than once."""
        layer = self.layers[0]
        device = (layer.ssm if isinstance(layer, ScanState) else layer.keys).device
        chosen = torch.as_tensor(index, dtype=torch.long, device=device)
        return State(tuple(layer.rows(chosen) for layer in self.layers))
