"""The prefix tree of a job's requests: which tokens have to run, and where their logits are asked for.

Pure Python.  A node is a run of tokens that several requests, or one, have in common after the same beginning:

    [The capital of]──[ France is]──[ Paris]
                    │             └─[ Rome]
                    └─[ Italy is ]──[ Rome]

Each node runs once; the state after it is the start of its children.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
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
    children: dict[Node, None] = field(default_factory=dict)
    """A set that keeps its order."""
    marks: list[Mark] = field(default_factory=list)
    inputs: list[Tokens] = field(default_factory=list)
    """Distinct inputs that end in it."""
    generations: int = 0
    """Nodes with children on a way down from it, itself included, where there are most of them."""
    reach: int = 0
    """Tokens of such nodes, where there are most."""

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


def build(requests: Sequence[Asked], dissolved: Callable[[Node, int], Iterable[Node]] = lambda *_: ()) -> Tree:
    """The tree of some requests.

    Args:
        dissolved: (node above all, its distinct tokens) -> nodes whose tokens their children run, each for itself.
    """
    asked = _asked(requests)
    inputs = sorted(asked)
    top = Node(())
    distinct = _grow(top, inputs)
    # An input that another goes on from is no branch.
    _dissolve(top, [node for node in top.walk() if len(node.children) == 1 and node is not top])
    _dissolve(top, dissolved(top, distinct))
    _place(top, asked)
    _measure(top)
    return Tree(list(top.children), sum(map(len, inputs)), distinct)


Places = list[tuple[int, int, int]]
"""(position, target, request) of what is asked of an input."""


def _asked(requests: Sequence[Asked]) -> dict[Tokens, Places]:
    """What is asked of each distinct input."""
    found: dict[Tokens, Places] = {}
    for index, request in enumerate(requests):
        places = enumerate(request.continuation, start=request.first)
        found.setdefault(request.tokens, []).extend((position, target, index) for position, target in places)
    return found


def _grow(top: Node, inputs: Sequence[Tokens]) -> int:
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
        child = Node(tokens[shared:], inputs=[tokens])
        node.children[child] = None
        path.append((shared, child))
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
    child = Node(node.tokens[at:], node.children, inputs=node.inputs)
    node.tokens, node.children, node.inputs = node.tokens[:at], {child: None}, []


def _dissolve(top: Node, nodes: Iterable[Node]) -> None:
    """Put nodes' tokens at the beginning of each of their children; what ended in one ends in the first of them."""
    parents = {child: node for node in top.walk() for child in node.children}
    for node in nodes:
        parent = parents.pop(node)
        for child in node.children:
            child.tokens = node.tokens + child.tokens
            parents[child] = parent
        next(iter(node.children)).inputs += node.inputs
        del parent.children[node]
        parent.children.update(node.children)


def _place(top: Node, asked: dict[Tokens, Places]) -> None:
    """Hand what is asked of each input to the nodes on its path that have the positions."""
    path: list[Node] = []
    starts: list[int] = []
    waiting = [(0, 0, child) for child in top.children]
    while waiting:
        depth, start, node = waiting.pop()
        path[depth:], starts[depth:] = [node], [start]
        for tokens in node.inputs:
            for position, target, request in asked[tokens]:
                place = bisect_right(starts, position) - 1
                path[place].marks.append(Mark(position - starts[place], target, request))
        waiting.extend((depth + 1, start + len(node.tokens), child) for child in node.children)


def _measure(top: Node) -> None:
    """How far nodes go on below."""
    for node in reversed(list(top.walk())):
        if node.children:
            node.generations = 1 + max(child.generations for child in node.children)
            node.reach = len(node.tokens) + max(child.reach for child in node.children)
