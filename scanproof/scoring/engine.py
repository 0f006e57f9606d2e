"""Score each distinct token once: run the prefix tree of a call's requests in batches, children after parents.

lm-eval runs the whole prompt again for every choice, and for every question after the same examples.  Here each node of
the tree (`scanproof.scoring.prefix_tree`) runs once.  Its children start from its state, which is freed after the last
child has run.  Logits are computed at scored positions only.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor
from torch.nn.functional import log_softmax
from torch.nn.utils.rnn import pad_sequence

from scanproof.scoring.carried_state import CarriedState, Prefix
from scanproof.scoring.network import Network
from scanproof.scoring.prefix_tree import Node, Query, build_tree
from scanproof.scoring.spot_checks import SampledAnswer
from scanproof.scoring.tree_depth import Prices, choose_dissolved

SLACK = 0.08
"""Share of the distinct tokens that may run twice where that saves a pass of the model."""
OVERHEAD = {"cpu": (2**25, 13), "cuda": (2**40, 128)}
"""Device type -> fixed cost of a pass: of its calls, in weights times positions; of reading the weights, in positions.

Measured on a CPU core: 1 to 3 ms, and 13 positions.  Estimated for a GPU: 10 ms at 200 TFLOP/s, and 128 positions, the
number from which a GPU is busy computing rather than reading bfloat16 weights.
"""
HANDOVER = 1 / 64
"""Cost of passing a state to the children of a node, as a share of the fixed cost of a pass."""
AHEAD = 0.25
"""While states take less than this share of their memory, more nodes run before their children: batches get larger."""
Say = Callable[[str], None]


@dataclass
class Tally:
    """Counts of what was scored; they grow during scoring."""

    plain_tokens: int = 0
    """Tokens that the engine `plain`, lm-eval as it is, would run."""
    distinct_tokens: int = 0
    """Tokens that have to run at least once: the lower bound."""
    tokens: int = 0
    """Tokens that ran, without padding."""
    padding: int = 0
    """Padded positions of batches."""
    scored_positions: int = 0
    """Positions whose logits were computed."""
    peak_state_bytes: int = 0
    """Most memory that states took at one time."""
    notes: list[str] = field(default_factory=list)
    """Messages for the reader of the run."""
    sampled: list[SampledAnswer] = field(default_factory=list)
    """Requests that lm-eval's own path will score as well."""


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


class Engine:
    """Scores the requests of a call to lm-eval's `_loglikelihood_tokens`."""

    def __init__(
        self, network: Network, limits: Limits, softmax_dtype: torch.dtype | None, tally: Tally, say: Say
    ) -> None:
        """
        Args:
            softmax_dtype: dtype of the log-probabilities; None for that of the logits.
            say: is told, in a sentence, what a reader of the run should know.
        """
        self.network, self.limits, self.softmax_dtype = network, limits, softmax_dtype
        self.tally, self.say = tally, say
        self._rows = limits.positions
        """Most rows of a batch; halved each time memory runs out."""
        self._held = 0
        """Memory of all states that are kept now, in bytes."""
        calls, reading = OVERHEAD.get(network.device.type, OVERHEAD["cuda"])
        self._overhead = calls / network.weights + reading
        """Fixed cost of a pass, in positions."""

    def score(self, requests: Sequence[Query], answered: Callable[[int, float, bool], None]) -> None:
        """Score the requests.

        Args:
            answered: called once per request with its index, its log-likelihood in nats, and whether every token of
                the continuation is the most probable one.
        """
        prices = Prices(level=self._overhead, row=HANDOVER * self._overhead, slack=SLACK)
        tree = build_tree(requests, partial(choose_dissolved, prices=prices))
        self.tally.plain_tokens += tree.plain
        self.tally.distinct_tokens += tree.distinct
        scores = Scores(requests, answered)
        stack = [self._make_frame([ReadyNode(root, None) for root in tree.roots], 0)]
        while stack:
            frame = stack[-1]
            if not frame.waiting:
                self._held -= stack.pop().bytes
                continue
            batch = self._take_batch(frame)
            outcome = self._run(batch)
            if outcome is None:
                frame.waiting.extend(reversed(batch))
                continue
            log_probabilities, carried = outcome
            scores.add(batch, log_probabilities)
            frame.following += ready_children(batch, carried)
            frame.following_bytes += carried.new_bytes
            frame.below = max(frame.below, *(self._bytes_below(ready.node) for ready in batch), 0.0)
            self._held += carried.new_bytes
            self.tally.peak_state_bytes = max(self.tally.peak_state_bytes, self._held)
            if frame.following and not self._may_run_ahead(frame):
                stack.append(self._descend(frame))

    def _may_run_ahead(self, frame: Frame) -> bool:
        """Whether more nodes with children run before the following nodes, because states take little memory so far."""
        if not frame.inner:
            return False
        first = frame.waiting[-1]
        row = self._row_bytes(first, first.seen, len(first.node.tokens))
        below = max(frame.below, self._bytes_below(first.node))
        return self._held + row + below <= AHEAD * self.limits.state_bytes

    def _descend(self, frame: Frame) -> Frame:
        """A frame of the following nodes.  While memory is plentiful, this frame's leaves join it, to share batches."""
        following, size = frame.following, frame.following_bytes
        frame.following, frame.following_bytes, frame.below = [], 0, 0.0
        if not frame.inner and self._held <= AHEAD * self.limits.state_bytes:
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
                or rows > self._rows
                or rows * length > self.limits.positions
                or rows * self._row_bytes(first, seen, length) > self._free_bytes(first, below)
                or padding > self._overhead
            ):
                break
            batch.append(frame.waiting.pop())
        return batch

    def _free_bytes(self, first: ReadyNode, below: float) -> float:
        """Memory that a batch may take.

        For nodes with children it is at most half of what is free: the rest is for the generations that follow, which
        need at least `below`.
        """
        free = self.limits.state_bytes - self._held
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

    def _run(self, batch: Sequence[ReadyNode]) -> tuple[Tensor, CarriedState] | None:
        """`_forward` of a batch; None where memory ran out, and then later batches are smaller."""
        try:
            return self._forward(batch)
        except Exception as error:
            if not is_out_of_memory(error) or len(batch) == 1:
                raise
        # Outside the except block, the traceback no longer holds the tensors of the failed pass.
        self._halve_rows(len(batch))
        return None

    def _forward(self, batch: Sequence[ReadyNode]) -> tuple[Tensor, CarriedState]:
        """Log-probabilities (n, vocabulary) at the n `scored_positions` of a batch, and the states after its rows."""
        lengths = [len(ready.node.tokens) for ready in batch]
        keep = bool(batch[0].node.children)
        device = self.network.device
        carried = CarriedState([ready.prefix for ready in batch], lengths, keep, device)
        tokens = pad_sequence([torch.tensor(ready.node.tokens) for ready in batch], batch_first=True).to(device)
        rows, positions = torch.tensor(scored_positions(batch), dtype=torch.long, device=device).view(-1, 2).T
        logits = self.network.run(tokens, carried, (rows, positions))
        # As in lm-eval: in the dtype of the logits unless another is set.
        log_probabilities = log_softmax(logits, dim=-1, dtype=self.softmax_dtype)
        self.tally.tokens += sum(lengths)
        self.tally.padding += tokens.numel() - sum(lengths)
        self.tally.scored_positions += len(rows)
        return log_probabilities, carried

    def _halve_rows(self, rows: int) -> None:
        self._rows = rows // 2
        message = f"out of memory with {rows} rows; goes on with {self._rows}"
        self.tally.notes.append(message)
        self.say(message)
        if self.network.device.type == "cuda":
            torch.cuda.empty_cache()


class Scores:
    """Adds up the log-likelihood of each request from those of its tokens, which come in any order."""

    def __init__(self, requests: Sequence[Query], answered: Callable[[int, float, bool], None]) -> None:
        self._answered = answered
        self._values: list[list[float]] = [[] for _ in requests]
        self._greedy = [True] * len(requests)
        self._lengths = [len(query.continuation) for query in requests]

    def add(self, batch: Sequence[ReadyNode], log_probabilities: Tensor) -> None:
        """Read the scores of a batch's marks from the log-probabilities (n, vocabulary) at its `scored_positions`."""
        number = {place: index for index, place in enumerate(scored_positions(batch))}
        marks = [(number[row, mark.position], mark) for row, ready in enumerate(batch) for mark in ready.node.marks]
        if not marks:
            return
        index = torch.tensor([[place, mark.target] for place, mark in marks], device=log_probabilities.device)
        values = log_probabilities[index[:, 0], index[:, 1]].tolist()
        best = log_probabilities.argmax(dim=-1).tolist()
        for (place, mark), value in zip(marks, values, strict=True):
            self._add(mark.request, value, best[place] == mark.target, log_probabilities.dtype)

    def _add(self, request: int, value: float, greedy: bool, dtype: torch.dtype) -> None:
        values = self._values[request]
        values.append(value)
        self._greedy[request] &= greedy
        if len(values) == self._lengths[request]:
            # As in lm-eval: the sum is rounded to the dtype of the log-probabilities.
            total = torch.tensor(values, dtype=dtype).sum() if len(values) > 1 else values[0]
            self._answered(request, float(total), self._greedy[request])
            self._values[request] = []


def scored_positions(batch: Sequence[ReadyNode]) -> list[tuple[int, int]]:
    """(row, position) of each scored position of a batch, without repetition, in rising order."""
    return [
        (row, position)
        for row, ready in enumerate(batch)
        for position in sorted({mark.position for mark in ready.node.marks})
    ]


def ready_children(batch: Sequence[ReadyNode], carried: CarriedState) -> list[ReadyNode]:
    """The children of the nodes of a batch that has run."""
    ready = []
    for row, parent in enumerate(batch):
        if parent.node.children:
            prefix = carried.make_prefix(row)
            ready += [ReadyNode(child, prefix) for child in parent.node.children]
    return ready


def is_out_of_memory(error: Exception) -> bool:
    """Whether an error means that memory ran out, on a GPU or on the host."""
    on_host = isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
    return on_host or isinstance(error, (torch.OutOfMemoryError, MemoryError))
