"""Score each distinct token once: the tree of a call's requests, run in batches, children after parents.

lm-eval runs the whole prompt again for every choice and every question behind the same examples.  Here a node of the
tree (`scanproof.scoring.prefix_tree`) runs once, its state is the start of its children, and is freed after the last of them.
Logits are made of scored positions only.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor
from torch.nn.functional import log_softmax
from torch.nn.utils.rnn import pad_sequence

from scanproof.scoring.carried_state import Passage, Trail
from scanproof.scoring.network import Network
from scanproof.scoring.prefix_tree import Asked, Node, build
from scanproof.scoring.spot_checks import Answered
from scanproof.scoring.tree_depth import Prices, dissolved

SLACK = 0.08
"""Share of the distinct tokens that may run twice where that saves a pass."""
OVERHEAD = {"cpu": (2**25, 13), "cuda": (2**40, 128)}
"""What a pass costs by itself: its calls, in weights times positions, and its reading of the weights, in positions.

Measured on a CPU core: 1 to 3 ms and 13 positions.  Estimated on a GPU: 10 ms at 200 TFLOP/s; 128 positions is where
as many operations per byte of bfloat16 weights begin to keep one busy.
"""
HANDOVER = 1 / 64
"""What handing a state on costs, in passes."""
AHEAD = 0.25
"""Share of the memory for states below which more of them are made before any is used: batches get larger."""
Say = Callable[[str], None]


@dataclass
class Tally:
    """What was scored, growing while it is."""

    plain_tokens: int = 0
    """Tokens that plain would run."""
    distinct_tokens: int = 0
    """Tokens that have to run at least once: the lower bound."""
    tokens: int = 0
    """Tokens that ran, padding apart."""
    padding: int = 0
    """Positions that filled up batches."""
    scored_positions: int = 0
    """Positions whose logits were made."""
    peak_state_bytes: int = 0
    """Most that states took at one time."""
    notes: list[str] = field(default_factory=list)
    """What was said."""
    sampled: list[Answered] = field(default_factory=list)
    """Requests for plain to score as well."""


@dataclass(frozen=True)
class Limits:
    """What a batch may take."""

    positions: int
    """Rows times positions, padding included."""
    state_bytes: float
    """Of the states that are kept at one time, and of those that a layer works on; one row is always allowed."""


@dataclass(frozen=True)
class Waiting:
    """A node whose parent has run."""

    node: Node
    behind: Trail | None

    @property
    def order(self) -> tuple[bool, int, int]:
        """Nodes with children first, then the long ones, so that a batch has one kind and little padding."""
        return not self.node.children, -len(self.node.tokens), -self.seen

    @property
    def seen(self) -> int:
        """Tokens before the node."""
        return self.behind.seen if self.behind else 0


@dataclass
class Frame:
    """Nodes whose parents have run, and the memory of what these left."""

    waiting: list[Waiting]
    """The next one last."""
    bytes: int
    following: list[Waiting] = field(default_factory=list)
    """Children of those that were taken."""
    left: int = 0
    """Memory that the states of the following take."""
    below: float = 0.0
    """Memory that is kept at least once the following run."""

    @property
    def inner(self) -> bool:
        """Whether the next has children: those come first."""
        return bool(self.waiting and self.waiting[-1].node.children)


class Engine:
    """Scores the requests of one call."""

    def __init__(
        self, network: Network, limits: Limits, softmax_dtype: torch.dtype | None, tally: Tally, say: Say
    ) -> None:
        self.network, self.limits, self.softmax_dtype = network, limits, softmax_dtype
        self.tally, self.say = tally, say
        self._rows = limits.positions
        """Most rows of a batch; halved when memory runs out."""
        self._held = 0
        """Bytes of all states that are kept now."""
        calls, reading = OVERHEAD.get(network.device.type, OVERHEAD["cuda"])
        self._overhead = calls / network.weights + reading
        """Positions that cost as much as a pass does by itself."""

    def score(self, requests: Sequence[Asked], answered: Callable[[int, float, bool], None]) -> None:
        """Run the tree; `answered` is told of each request once: its index, log-likelihood, whether it is greedy."""
        prices = Prices(level=self._overhead, row=HANDOVER * self._overhead, slack=SLACK)
        tree = build(requests, partial(dissolved, prices=prices))
        self.tally.plain_tokens += tree.plain
        self.tally.distinct_tokens += tree.distinct
        scores = Scores(requests, answered)
        stack = [self._frame([Waiting(root, None) for root in tree.roots], 0)]
        while stack:
            frame = stack[-1]
            if not frame.waiting:
                self._held -= stack.pop().bytes
                continue
            batch = self._batch(frame)
            done = self._run(batch)
            if done is None:
                frame.waiting.extend(reversed(batch))
                continue
            probable, passage = done
            scores.add(batch, probable)
            frame.following += children(batch, passage)
            frame.left += passage.bytes
            frame.below = max(frame.below, *(self._below(each.node) for each in batch), 0.0)
            self._held += passage.bytes
            self.tally.peak_state_bytes = max(self.tally.peak_state_bytes, self._held)
            if frame.following and not self._ahead(frame):
                stack.append(self._descend(frame))

    def _ahead(self, frame: Frame) -> bool:
        """Whether further nodes with children run before those that follow: their states are few as yet."""
        if not frame.inner:
            return False
        first = frame.waiting[-1]
        row = self._bytes(first, first.seen, len(first.node.tokens))
        below = max(frame.below, self._below(first.node))
        return self._held + row + below <= AHEAD * self.limits.state_bytes

    def _descend(self, frame: Frame) -> Frame:
        """What follows the nodes that were taken off a frame; its leaves share their batches where memory is plenty."""
        following, left = frame.following, frame.left
        frame.following, frame.left, frame.below = [], 0, 0.0
        if not frame.inner and self._held <= AHEAD * self.limits.state_bytes:
            following += frame.waiting
            frame.waiting = []
        return self._frame(following, left)

    def _frame(self, waiting: list[Waiting], size: int) -> Frame:
        return Frame(sorted(waiting, key=lambda each: each.order, reverse=True), size)

    def _batch(self, frame: Frame) -> list[Waiting]:
        """Take nodes off the frame: all with children or none, as many as the limits allow, at least one."""
        first = frame.waiting.pop()
        batch, length = [first], len(first.node.tokens)
        seen, below, padding = first.seen, max(frame.below, self._below(first.node)), 0
        while frame.waiting:
            following = frame.waiting[-1]
            padding += length - len(following.node.tokens)
            rows, seen = len(batch) + 1, max(seen, following.seen)
            below = max(below, self._below(following.node))
            if (
                bool(following.node.children) != bool(first.node.children)
                or rows > self._rows
                or rows * length > self.limits.positions
                or rows * self._bytes(first, seen, length) > self._room(first, below)
                or padding > self._overhead
            ):
                break
            batch.append(frame.waiting.pop())
        return batch

    def _room(self, first: Waiting, below: float) -> float:
        """Memory for a batch.

        Of nodes with children half stays for the generations that follow, and always what a row of each of them needs.
        """
        free = self.limits.state_bytes - self._held
        return min(free / 2, free - below) if first.node.children else free

    def _bytes(self, first: Waiting, seen: int, length: int) -> float:
        """Memory that a row takes while it runs, or afterwards for its children."""
        passing = self.network.passing_bytes(seen, length)
        return max(passing, self.network.kept_bytes(1, length)) if first.node.children else passing

    def _below(self, node: Node) -> float:
        """Memory that is kept at least, one row at a time, once the children of a node run."""
        if not node.children:
            return 0.0
        return self.network.kept_bytes(node.generations - 1, node.reach - len(node.tokens))

    def _run(self, batch: Sequence[Waiting]) -> tuple[Tensor, Passage] | None:
        """`_forward` of a batch; None where memory ran out, and smaller batches are made from now on."""
        try:
            return self._forward(batch)
        except Exception as error:
            if not out_of_memory(error) or len(batch) == 1:
                raise
        # The error is gone by now, and with it what its traceback held.
        self._halve(len(batch))
        return None

    def _forward(self, batch: Sequence[Waiting]) -> tuple[Tensor, Passage]:
        """Log-probabilities at the batch's scored positions, in the order of `places`, and what its rows leave."""
        lengths = [len(each.node.tokens) for each in batch]
        keep = bool(batch[0].node.children)
        device = self.network.device
        passage = Passage([each.behind for each in batch], lengths, keep, device)
        tokens = pad_sequence([torch.tensor(each.node.tokens) for each in batch], batch_first=True).to(device)
        rows, positions = torch.tensor(places(batch), dtype=torch.long, device=device).view(-1, 2).T
        logits = self.network.run(tokens, passage, (rows, positions))
        # As lm-eval: in the dtype of the logits unless one is asked for.
        probable = log_softmax(logits, dim=-1, dtype=self.softmax_dtype)
        self.tally.tokens += sum(lengths)
        self.tally.padding += tokens.numel() - sum(lengths)
        self.tally.scored_positions += len(rows)
        return probable, passage

    def _halve(self, rows: int) -> None:
        self._rows = rows // 2
        message = f"out of memory with {rows} rows; goes on with {self._rows}"
        self.tally.notes.append(message)
        self.say(message)
        if self.network.device.type == "cuda":
            torch.cuda.empty_cache()


class Scores:
    """The log-probabilities of continuations, token by token in any order."""

    def __init__(self, requests: Sequence[Asked], answered: Callable[[int, float, bool], None]) -> None:
        self._answered = answered
        self._found: list[list[float]] = [[] for _ in requests]
        self._greedy = [True] * len(requests)
        self._lengths = [len(each.continuation) for each in requests]

    def add(self, batch: Sequence[Waiting], probable: Tensor) -> None:
        """What the log-probabilities (n, vocabulary) of a batch say of its marks."""
        number = {place: index for index, place in enumerate(places(batch))}
        marks = [(number[row, mark.position], mark) for row, each in enumerate(batch) for mark in each.node.marks]
        if not marks:
            return
        index = torch.tensor([[place, mark.target] for place, mark in marks], device=probable.device)
        found = probable[index[:, 0], index[:, 1]].tolist()
        best = probable.argmax(dim=-1).tolist()
        for (place, mark), value in zip(marks, found, strict=True):
            self._add(mark.request, value, best[place] == mark.target, probable.dtype)

    def _add(self, request: int, value: float, greedy: bool, dtype: torch.dtype) -> None:
        values = self._found[request]
        values.append(value)
        self._greedy[request] &= greedy
        if len(values) == self._lengths[request]:
            # As lm-eval adds them up: rounded to their dtype at the end.
            total = torch.tensor(values, dtype=dtype).sum() if len(values) > 1 else values[0]
            self._answered(request, float(total), self._greedy[request])
            self._found[request] = []


def places(batch: Sequence[Waiting]) -> list[tuple[int, int]]:
    """(row, position) of each scored position, once."""
    return [
        (row, position)
        for row, each in enumerate(batch)
        for position in sorted({mark.position for mark in each.node.marks})
    ]


def children(batch: Sequence[Waiting], passage: Passage) -> list[Waiting]:
    """The nodes that follow a batch."""
    found = []
    for row, each in enumerate(batch):
        if each.node.children:
            trail = passage.trail(row)
            found += [Waiting(child, trail) for child in each.node.children]
    return found


def out_of_memory(error: Exception) -> bool:
    """Whether memory ran out, on a GPU or on the host."""
    told = isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
    return told or isinstance(error, (torch.OutOfMemoryError, MemoryError))
