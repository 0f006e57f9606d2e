"""One forward pass that goes on from states, and the states that it goes on from.

Letters: b rows, l positions of this pass, s positions before it, as many as the row with most has; h heads, p headdim.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from scanproof.models.states import ScanState


@dataclass(frozen=True)
class Segment:
    """What an attention layer keeps of a node: of its own tokens only, those before are its ancestors'."""

    keys: Tensor
    """(h, l, p), rotated."""
    values: Tensor
    """(h, l, p)."""
    conv: Tensor | None = None
    """(d, w - 1), the last inputs of a convolution over q, k and v; None without one."""


Kept = ScanState | Segment
"""What a layer leaves behind a node; a ScanState of one row."""


@dataclass(frozen=True)
class Trail:
    """What a row has behind it: a node and its ancestors."""

    parent: Trail | None
    length: int
    """Tokens of the node."""
    layers: Mapping[int, Kept]
    """By slot: each layer that carries something on has a number."""

    @cached_property
    def seen(self) -> int:
        """Tokens of the node and its ancestors."""
        return self.length + (self.parent.seen if self.parent else 0)

    def upwards(self) -> Iterator[Trail]:
        """The node, its parent, and so on to the root."""
        trail: Trail | None = self
        while trail is not None:
            yield trail
            trail = trail.parent


class Passage:
    """What the stateful layers of a model read and leave during one forward pass.

    Rows are padded on the right.  What comes after a row's own length reaches no position before it, and nothing that
    the row leaves.
    """

    def __init__(
        self, trails: Sequence[Trail | None], lengths: Sequence[int], keep: bool, device: torch.device
    ) -> None:
        """
        Args:
            trails: what each row has behind it; None at the start of a sequence.
            lengths: tokens of each row.
            keep: whether what the layers leave is wanted.
        """
        self.trails, self.lengths, self.keep = trails, lengths, keep
        self.device = device
        self.seen = [trail.seen if trail else 0 for trail in trails]
        self.left: dict[int, Kept] = {}
        """By slot, with all rows: of Segment (b, h, l, p) and (b, d, w - 1)."""

    @cached_property
    def longest(self) -> int:
        """s."""
        return max(self.seen)

    @cached_property
    def ends(self) -> Tensor | None:
        """(b,), the rows' lengths, where states are wanted and not all rows are equally long."""
        if not self.keep or len(set(self.lengths)) == 1:
            return None
        return torch.tensor(self.lengths, device=self.device)

    @cached_property
    def real(self) -> Tensor | None:
        """(b, l), False where a row is padded; None where that makes no difference to what is kept."""
        if self.ends is None:
            return None
        return torch.arange(max(self.lengths), device=self.device) < self.ends[:, None]

    @cached_property
    def starts(self) -> Tensor:
        """(b, 1, 1), the number of each row's first position in its sequence."""
        return torch.tensor(self.seen, device=self.device).view(-1, 1, 1)

    @cached_property
    def positions(self) -> Tensor:
        """(b, l), the number of each position in its sequence."""
        return self.starts[:, 0] + torch.arange(max(self.lengths), device=self.device)

    @cached_property
    def visible(self) -> Tensor | None:
        """(b, s + l), False where a row has nothing: its past lies at the right end of s; None where all are alike."""
        if len(set(self.seen)) == 1:
            return None
        behind = torch.arange(self.longest, device=self.device) >= self.longest - self.starts[:, 0]
        now = behind.new_ones(len(behind), max(self.lengths))
        return torch.cat([behind, now], dim=1)

    def before(self, slot: int, empty: ScanState) -> ScanState:
        """The rows' states of a scan layer; `empty` is the state, of one row, at the start of a sequence."""
        rows = [trail.layers[slot] if trail else empty for trail in self.trails]
        states = [row for row in rows if isinstance(row, ScanState)]
        assert len(states) == len(rows), f"slot {slot} belongs to an attention layer"
        return ScanState(torch.cat([row.conv for row in states]), torch.cat([row.ssm for row in states]))

    def window(self, slot: int, empty: Tensor) -> Tensor:
        """(b, d, w - 1), the last inputs of an attention layer's convolution; `empty` is (d, w - 1)."""
        rows = [trail.layers[slot] if trail else None for trail in self.trails]
        return torch.stack([row.conv if isinstance(row, Segment) and row.conv is not None else empty for row in rows])

    def extend(self, slot: int, keys: Tensor, values: Tensor, conv: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Keys and values (b, h, l, p) of this pass -> (b, h, s + l, p), with those behind each row before them.

        One layer at a time is put together, and nothing of it is kept but this pass's own.
        """
        if self.keep:
            self.left[slot] = Segment(alone(keys), alone(values), conv)
        if not self.longest:
            return keys, values
        batch, heads, length, width = keys.shape
        joined = [part.new_zeros(batch, heads, self.longest + length, width) for part in (keys, values)]
        for stop, segment, rows in self._segments(slot):
            start = stop - segment.keys.shape[1]
            for whole, part in zip(joined, (segment.keys, segment.values), strict=True):
                whole[rows, :, start:stop] = part
        for whole, part in zip(joined, (keys, values), strict=True):
            whole[:, :, self.longest :] = part
        return joined[0], joined[1]

    def _segments(self, slot: int) -> Iterator[tuple[int, Segment, Tensor]]:
        """(where it ends in s, segment, rows that have it)."""
        for stop, trail, rows in self._behind:
            segment = trail.layers[slot]
            assert isinstance(segment, Segment), f"slot {slot} belongs to a scan layer"
            yield stop, segment, rows

    @cached_property
    def _behind(self) -> list[tuple[int, Trail, Tensor]]:
        """Each node behind a row: where it ends in s, and the rows that have it there."""
        found: dict[tuple[int, int], tuple[Trail, list[int]]] = {}
        for row, trail in enumerate(self.trails):
            stop = self.longest
            for each in trail.upwards() if trail else ():
                found.setdefault((id(each), stop), (each, []))[1].append(row)
                stop -= each.length
        return [(stop, trail, torch.tensor(rows, device=self.device)) for (_, stop), (trail, rows) in found.items()]

    def leave(self, slot: int, state: ScanState) -> None:
        """Keep what a scan layer has after each row's own last position."""
        if self.keep:
            self.left[slot] = ScanState(alone(state.conv), alone(state.ssm))

    def trail(self, row: int) -> Trail:
        """What is behind the tokens that follow a row of this pass."""
        layers = {slot: self._row(kept, row) for slot, kept in self.left.items()}
        return Trail(self.trails[row], self.lengths[row], layers)

    def _row(self, kept: Kept, row: int) -> Kept:
        if isinstance(kept, ScanState):
            return ScanState(kept.conv[row : row + 1], kept.ssm[row : row + 1])
        end = self.lengths[row]
        conv = None if kept.conv is None else kept.conv[row]
        return Segment(kept.keys[row, :, :end], kept.values[row, :, :end], conv)

    @property
    def bytes(self) -> int:
        """Memory of what is left."""
        return sum(map(size, self.left.values()))


def size(kept: Kept) -> int:
    """Memory of what a layer keeps, in bytes."""
    parts = (kept.conv, kept.ssm) if isinstance(kept, ScanState) else (kept.keys, kept.values, kept.conv)
    return sum(part.numel() * part.element_size() for part in parts if part is not None)


def alone(part: Tensor) -> Tensor:
    """The tensor in memory of its own: a slice of a projection would keep the whole of it."""
    return part if part.untyped_storage().nbytes() == part.numel() * part.element_size() else part.clone()
