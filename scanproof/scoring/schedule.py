"""In which order the nodes of the prefix tree run, and which of them share a pass: by memory, positions and padding.

A `Schedule` runs nothing itself: it hands each batch to a function, the engine's or one that only counts passes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from scanproof.scoring.carried_state import Prefix
from scanproof.scoring.network import Network
from scanproof.scoring.prefix_tree import Node, Tree

AHEAD = 0.25
"""While states take less than this share of their memory, more nodes run before their children: batches get larger."""


@dataclass(frozen=True)
class Limits:
    """How large a batch may be."""

    positions: int
    """Rows times positions, padding included."""
    state_bytes: float
    """Memory of the states that are kept at one time, and of those that a layer works on; one row is always allowed."""


@dataclass(frozen=True)
class ReadyNode:
    """A node whose parent has run, so that it can run."""

    node: Node
    prefix: Prefix | None

    @property
    def order(self) -> tuple[bool, int, int]:
        """Sort key: nodes with children first, then long ones, so that a batch has one kind and little padding."""
        return not self.node.children, -len(self.node.tokens), -self.seen

    @property
    def seen(self) -> int:
        """Number of tokens before the node."""
        return self.prefix.seen if self.prefix else 0


@dataclass
class Frame:
    """Nodes that can run, and the memory of their parents' states."""

    waiting: list[ReadyNode]
    """Sorted; the next to run is last."""
    bytes: int
    """Memory of the states from which the waiting nodes start."""
    following: list[ReadyNode] = field(default_factory=list)
    """Children of the nodes that ran."""
    following_bytes: int = 0
    """Memory of the states from which the following nodes start."""
    below: float = 0.0
    """Least memory that must be kept while the following nodes run."""

    @property
    def inner(self) -> bool:
        """Whether the next node has children; such nodes run first."""
        return bool(self.waiting and self.waiting[-1].node.children)


@dataclass(frozen=True)
class Ran:
    """What a batch left that has run."""

    following: Sequence[ReadyNode]
    """The children of its nodes."""
    bytes: int
    """Memory of the states from which they start."""


RunBatch = Callable[[list[ReadyNode]], Ran | None]
"""Runs a batch; None where memory ran out, and then its nodes come again in smaller batches."""


class Schedule:
    """The batches of one tree, children after their parents."""

    def __init__(self, network: Network, limits: Limits, overhead: float) -> None:
        """
        Args:
            overhead: fixed cost of a pass, in positions; a batch may be padded with as many.
        """
        self.network, self.limits, self.overhead = network, limits, overhead
        self.rows = limits.positions
        """Most rows of a batch; to be lowered when memory runs out."""
        self.held = 0
        """Memory of all states that are kept now, in bytes."""

    def walk(self, tree: Tree, run: RunBatch) -> None:
        """Run all batches."""
        stack = [self._make_frame([ReadyNode(root, None) for root in tree.roots], 0)]
        while stack:
            frame = stack[-1]
            if not frame.waiting:
                self.held -= stack.pop().bytes
                continue
            batch = self._take_batch(frame)
            ran = run(batch)
            if ran is None:
                frame.waiting.extend(reversed(batch))
                continue
            frame.following += ran.following
            frame.following_bytes += ran.bytes
            frame.below = max(frame.below, *(self._bytes_below(ready.node) for ready in batch), 0.0)
            self.held += ran.bytes
            if frame.following and not self._may_run_ahead(frame):
                stack.append(self._descend(frame))

    def _may_run_ahead(self, frame: Frame) -> bool:
        """Whether more nodes with children run before the following nodes, because states take little memory so far."""
        if not frame.inner:
            return False
        first = frame.waiting[-1]
        row = self._row_bytes(first, first.seen, len(first.node.tokens))
        below = max(frame.below, self._bytes_below(first.node))
        return self.held + row + below <= AHEAD * self.limits.state_bytes

    def _descend(self, frame: Frame) -> Frame:
        """A frame of the following nodes.  While memory is plentiful, this frame's leaves join it, to share batches."""
        following, size = frame.following, frame.following_bytes
        frame.following, frame.following_bytes, frame.below = [], 0, 0.0
        if not frame.inner and self.held <= AHEAD * self.limits.state_bytes:
            following += frame.waiting
            frame.waiting = []
        return self._make_frame(following, size)

    def _make_frame(self, waiting: list[ReadyNode], size: int) -> Frame:
        return Frame(sorted(waiting, key=lambda ready: ready.order, reverse=True), size)

    def _take_batch(self, frame: Frame) -> list[ReadyNode]:
        """Take nodes off the frame, at least one and as many as the limits allow: all with children or all without."""
        first = frame.waiting.pop()
        batch, length = [first], len(first.node.tokens)
        seen, below, padding = first.seen, max(frame.below, self._bytes_below(first.node)), 0
        while frame.waiting:
            following = frame.waiting[-1]
            padding += length - len(following.node.tokens)
            rows, seen = len(batch) + 1, max(seen, following.seen)
            below = max(below, self._bytes_below(following.node))
            if (
                bool(following.node.children) != bool(first.node.children)
                or rows > self.rows
                or rows * length > self.limits.positions
                or rows * self._row_bytes(first, seen, length) > self._free_bytes(first, below)
                or padding > self.overhead
            ):
                break
            batch.append(frame.waiting.pop())
        return batch

    def _free_bytes(self, first: ReadyNode, below: float) -> float:
        """Memory that a batch may take.

        For nodes with children it is at most half of what is free: the rest is for the generations that follow, which
        need at least `below`.
        """
        free = self.limits.state_bytes - self.held
        return min(free / 2, free - below) if first.node.children else free

    def _row_bytes(self, first: ReadyNode, seen: int, length: int) -> float:
        """Memory of a row: while it runs or, where that is more, afterwards for its children."""
        passing = self.network.passing_bytes(seen, length)
        return max(passing, self.network.kept_bytes(1, length)) if first.node.children else passing

    def _bytes_below(self, node: Node) -> float:
        """Least memory that must be kept while the nodes below a node run, one row at a time."""
        if not node.children:
            return 0.0
        return self.network.kept_bytes(node.generations - 1, node.reach - len(node.tokens))
