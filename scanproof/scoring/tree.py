"""The prefix tree of a job's requests: which tokens have to run, and where their logits are asked for.

Pure Python.  A node is a run of tokens that several requests, or one, have in common after the same beginning:

    [The capital of]──[ France is]──[ Paris]
                    │             └─[ Rome]
                    └─[ Italy is ]──[ Rome]

Each node runs once; the state after it is the start of its children.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

Tokens = tuple[int, ...]


@dataclass(frozen=True)
class Asked:
    """What a request wants to know: the log-likelihood of its last tokens, given those before."""

    tokens: Tokens
    """What the model reads: context and continuation without its last token, cut to the model's length."""
    continuation: Tokens
    """Scored: its first token by the logits `len(continuation)` positions before the end of `tokens`, and so on."""

    @property
    def first(self) -> int:
        """Position whose logits score the first token of the continuation."""
        return len(self.tokens) - len(self.continuation)


@dataclass(frozen=True)
class Mark:
    """A token that is scored by the logits of a node's position."""

    position: int
    """Within the node's tokens."""
    target: int
    """The token."""
    request: int
    """Index of the request."""


@dataclass(eq=False)
class Node:
    """A run of tokens with what follows it."""

    tokens: Tokens
    children: list[Node] = field(default_factory=list)
    marks: list[Mark] = field(default_factory=list)

    def walk(self) -> Iterator[Node]:
        """The node and all below it, parents first."""
        waiting = [self]
        while waiting:
            node = waiting.pop()
            yield node
            waiting.extend(node.children)


@dataclass(frozen=True)
class Tree:
    """All requests of a call."""

    roots: list[Node]
    plain: int
    """Tokens that run when every distinct input runs by itself, as lm-eval does it."""
    distinct: int
    """Tokens that have to run at least once."""

    def nodes(self) -> Iterator[Node]:
        """All nodes, parents before children."""
        for root in self.roots:
            yield from root.walk()

    @property
    def tokens(self) -> int:
        """Tokens that run."""
        return sum(len(node.tokens) for node in self.nodes())


def build(requests: Sequence[Asked], slack: float = 0.0) -> Tree:
    """The tree of some requests.

    Args:
        slack: share of the distinct tokens that may run again, where that saves a node: a short beginning that few
            requests share costs less to run again than to hand over.
    """
    marks = _marks(requests)
    inputs = sorted(marks)
    top = Node(())
    distinct = _grow(top, inputs, marks)
    _merge(top, int(slack * distinct))
    return Tree(top.children, sum(map(len, inputs)), distinct)


def _marks(requests: Sequence[Asked]) -> dict[Tokens, list[tuple[int, int, int]]]:
    """(position, target, request) of what is asked of each distinct input."""
    found: dict[Tokens, list[tuple[int, int, int]]] = {}
    for index, request in enumerate(requests):
        places = enumerate(request.continuation, start=request.first)
        found.setdefault(request.tokens, []).extend((position, target, index) for position, target in places)
    return found


def _grow(top: Node, inputs: Sequence[Tokens], marks: dict[Tokens, list[tuple[int, int, int]]]) -> int:
    """Put sorted inputs below `top`; returns how many tokens their tree has.

    The path holds the nodes of the last input, each with the position at which it begins.
    """
    path: list[tuple[int, Node]] = [(0, top)]
    before: Tokens = ()
    distinct = 0
    for tokens in inputs:
        shared = _shared(before, tokens)
        distinct += len(tokens) - shared
        while len(path) > 1 and path[-1][0] >= shared:
            path.pop()
        start, node = path[-1]
        if shared < start + len(node.tokens):
            _split(node, shared - start)
        if shared < len(tokens):
            child = Node(tokens[shared:])
            node.children.append(child)
            path.append((shared, child))
        _place(path, marks[tokens])
        before = tokens
    return distinct


def _shared(one: Tokens, other: Tokens) -> int:
    """Length of the common beginning, by bisection: comparing slices is quicker than comparing tokens."""
    low, high = 0, min(len(one), len(other))
    while low < high:
        middle = (low + high + 1) // 2
        if one[low:middle] == other[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


def _split(node: Node, at: int) -> None:
    """Cut a node in two; what it had after position `at` becomes its child."""
    late = [Mark(mark.position - at, mark.target, mark.request) for mark in node.marks if mark.position >= at]
    child = Node(node.tokens[at:], node.children, late)
    node.marks = [mark for mark in node.marks if mark.position < at]
    node.tokens, node.children = node.tokens[:at], [child]


def _place(path: Sequence[tuple[int, Node]], asked: Sequence[tuple[int, int, int]]) -> None:
    """Hand what is asked of the path's last input to the nodes that have its positions."""
    for position, target, request in asked:
        start, node = next(each for each in reversed(path) if each[0] <= position)
        node.marks.append(Mark(position - start, target, request))


def _merge(top: Node, allowance: int) -> None:
    """Let children of short nodes begin by themselves, the cheapest first, while their extra tokens are allowed."""
    parents = {child: node for node in top.walk() for child in node.children}
    waiting = [(_cost(node), number, node) for number, node in enumerate(parents) if node.children]
    heapq.heapify(waiting)
    while waiting:
        cost, number, node = heapq.heappop(waiting)
        if cost != _cost(node):
            heapq.heappush(waiting, (_cost(node), number, node))
            continue
        if cost > allowance:
            return
        allowance -= cost
        _dissolve(node, parents)


def _cost(node: Node) -> int:
    """Tokens that run again without the node."""
    return len(node.tokens) * (len(node.children) - 1)


def _dissolve(node: Node, parents: dict[Node, Node]) -> None:
    """Put a node's tokens at the beginning of each of its children; the first of them answers its marks."""
    parent, length = parents.pop(node), len(node.tokens)
    for child in node.children:
        child.tokens = node.tokens + child.tokens
        child.marks = [Mark(mark.position + length, mark.target, mark.request) for mark in child.marks]
        parents[child] = parent
    node.children[0].marks += node.marks
    place = parent.children.index(node)
    parent.children[place : place + 1] = node.children
