"""The states that the rows of a batch carry into a forward pass and out of it.

Letters: b rows, l positions of this pass, s earlier positions of the row that has most of them, h heads, p headdim,
d channels of a convolution, w its width.
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
    """What an attention layer keeps of a node: only of the node's own tokens, its ancestors keep theirs."""

    keys: Tensor
    """(h, l, p), after the rotary embedding."""
    values: Tensor
    """(h, l, p)."""
    conv: Tensor | None = None
    """(d, w - 1), the last inputs of the convolution over q, k and v; None where the layer has none."""


NodeState = ScanState | Segment
"""What one layer keeps, of one node or of all rows of a pass."""


@dataclass(frozen=True)
class Prefix:
    """What ran before a row: a node and its ancestors."""

    parent: Prefix | None
    length: int
    """Tokens of the node."""
    kept: Mapping[int, NodeState]
    """Slot -> what that layer kept of all rows of the node's pass.  Each layer that carries something on has a slot."""
    row: int
    """The node's row in that pass."""

    @cached_property
    def seen(self) -> int:
        """Number of tokens of the node and its ancestors."""
        return self.length + (self.parent.seen if self.parent else 0)

    def segment(self, slot: int) -> Segment:
        """What an attention layer kept of the node."""
        segment = self.kept[slot]
        assert isinstance(segment, Segment), f"slot {slot} belongs to a scan layer"
        conv = None if segment.conv is None else segment.conv[self.row]
        return Segment(segment.keys[self.row, :, : self.length], segment.values[self.row, :, : self.length], conv)

    def walk_up(self) -> Iterator[Prefix]:
        """The node, its parent, and so on to the root."""
        prefix: Prefix | None = self
        while prefix is not None:
            yield prefix
            prefix = prefix.parent


class CarriedState:
    """The states that the layers of a model read and write during one forward pass.

    Rows are padded on the right.  Padding changes neither the outputs at a row's own positions nor its new states.
    """

    def __init__(
        self, prefixes: Sequence[Prefix | None], lengths: Sequence[int], keep: bool, device: torch.device
    ) -> None:
        """
        Args:
            prefixes: what ran before each row; None at the start of a sequence.
            lengths: tokens of each row in this pass.
            keep: whether to store the new states, which only nodes with children need.
        """
        self.prefixes, self.lengths, self.keep = prefixes, lengths, keep
        self.device = device
        self.seen = [prefix.seen if prefix else 0 for prefix in prefixes]
        self.new_states: dict[int, NodeState] = {}
        """Slot -> the layer's state after this pass, of all rows: a Segment has (b, h, l, p) and (b, d, w - 1)."""

    @cached_property
    def longest(self) -> int:
        """s: the most earlier positions that a row has."""
        return max(self.seen)

    @cached_property
    def ends(self) -> Tensor | None:
        """(b,) int64, the rows' lengths; None where no state is kept or all rows are equally long."""
        if not self.keep or len(set(self.lengths)) == 1:
            return None
        return torch.tensor(self.lengths, device=self.device)

    @cached_property
    def real(self) -> Tensor | None:
        """(b, l) bool, False at padding; None where `ends` is: then padding changes no state that is kept."""
        if self.ends is None:
            return None
        return torch.arange(max(self.lengths), device=self.device) < self.ends[:, None]

    @cached_property
    def starts(self) -> Tensor:
        """(b, 1, 1) int64, the place in its sequence of each row's first position."""
        return torch.tensor(self.seen, device=self.device).view(-1, 1, 1)

    @cached_property
    def positions(self) -> Tensor:
        """(b, l) int64, the place of each position in its sequence."""
        return self.starts[:, 0] + torch.arange(max(self.lengths), device=self.device)

    @cached_property
    def visible(self) -> Tensor | None:
        """(b, s + l) bool, False where a row has no key; None where all rows have equally many earlier positions.

        The earlier positions of a row are the last of the s.
        """
        if len(set(self.seen)) == 1:
            return None
        earlier = torch.arange(self.longest, device=self.device) >= self.longest - self.starts[:, 0]
        now = earlier.new_ones(len(earlier), max(self.lengths))
        return torch.cat([earlier, now], dim=1)

    def read_scan_states(self, slot: int, empty: ScanState) -> ScanState:
        """The rows' states of a scan layer, joined; `empty` is the state of one row at the start of a sequence."""
        sources, order = self._sources
        parts = [empty if kept is None else kept[slot] for kept, _ in sources]
        states = [part for part in parts if isinstance(part, ScanState)]
        assert len(states) == len(parts), f"slot {slot} belongs to an attention layer"
        rows = [chosen for _, chosen in sources]
        return ScanState(
            join_rows([state.conv for state in states], rows, order),
            join_rows([state.ssm for state in states], rows, order),
        )

    @cached_property
    def _sources(self) -> tuple[list[tuple[Mapping[int, NodeState] | None, Tensor]], Tensor | None]:
        """The passes from which the rows go on, each with its rows; and the order of these rows in this pass."""
        places: dict[int, list[int]] = {}
        for place, prefix in enumerate(self.prefixes):
            places.setdefault(id(prefix.kept) if prefix else 0, []).append(place)
        chosen = [[self.prefixes[place] for place in those] for those in places.values()]
        sources = [
            (those[0].kept if those[0] else None, self._index([prefix.row if prefix else 0 for prefix in those]))
            for those in chosen
        ]
        joined = [place for those in places.values() for place in those]
        return sources, None if len(sources) == 1 else self._index(joined).argsort()

    def _index(self, numbers: list[int]) -> Tensor:
        return torch.tensor(numbers, device=self.device)

    def read_windows(self, slot: int, empty: Tensor) -> Tensor:
        """(b, d, w - 1), the last inputs of an attention layer's convolution; `empty` (d, w - 1) starts a sequence."""
        windows = [prefix.segment(slot).conv if prefix else None for prefix in self.prefixes]
        return torch.stack([empty if window is None else window for window in windows])

    def extend_keys(self, slot: int, keys: Tensor, values: Tensor, conv: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Put the earlier keys and values of each row before those of this pass: (b, h, l, p) -> (b, h, s + l, p).

        Only the keys and values of this pass are kept, so only one layer at a time has the joined ones in memory.

        Args:
            conv: (b, d, w - 1), the window of the layer's convolution after this pass.
        """
        if self.keep:
            self.new_states[slot] = Segment(copy_if_slice(keys), copy_if_slice(values), conv)
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
        """(end within s, segment, indices of the rows that have it there)."""
        for stop, prefix, rows in self._prefix_nodes:
            yield stop, prefix.segment(slot), rows

    @cached_property
    def _prefix_nodes(self) -> list[tuple[int, Prefix, Tensor]]:
        """Each node of the rows' prefixes: its end within s, the node, the indices of the rows that have it there."""
        by_place: dict[tuple[int, int], tuple[Prefix, list[int]]] = {}
        for row, prefix in enumerate(self.prefixes):
            stop = self.longest
            for node in prefix.walk_up() if prefix else ():
                by_place.setdefault((id(node), stop), (node, []))[1].append(row)
                stop -= node.length
        return [
            (stop, prefix, torch.tensor(rows, device=self.device)) for (_, stop), (prefix, rows) in by_place.items()
        ]

    def keep_scan_states(self, slot: int, state: ScanState) -> None:
        """Store the states of a scan layer after each row's own last position."""
        if self.keep:
            self.new_states[slot] = ScanState(copy_if_slice(state.conv), copy_if_slice(state.ssm))

    def make_prefix(self, row: int) -> Prefix:
        """The prefix of the tokens that follow a row of this pass."""
        return Prefix(self.prefixes[row], self.lengths[row], self.new_states, row)

    @property
    def new_bytes(self) -> int:
        """Memory of the new states."""
        return sum(map(state_bytes, self.new_states.values()))


def join_rows(parts: Sequence[Tensor], rows: Sequence[Tensor], order: Tensor | None) -> Tensor:
    """Some rows of each part, joined, then put in order: in few steps however many rows, which a GPU needs."""
    chosen = [part.index_select(0, places) for part, places in zip(parts, rows, strict=True)]
    return chosen[0] if order is None else torch.cat(chosen).index_select(0, order)


def state_bytes(state: NodeState) -> int:
    """Memory of one layer's state, in bytes."""
    parts = (state.conv, state.ssm) if isinstance(state, ScanState) else (state.keys, state.values, state.conv)
    return sum(part.numel() * part.element_size() for part in parts if part is not None)


def copy_if_slice(part: Tensor) -> Tensor:
    """The tensor, copied where it is a slice: keeping a slice keeps the whole tensor in memory."""
    return part if part.untyped_storage().nbytes() == part.numel() * part.element_size() else part.clone()
