"""The prefix tree of a call's requests: which tokens have to run, and which positions need logits.

Pure Python.  A node is a run of tokens that one request, or several with the same beginning, have next:

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
class Query:
    """A request for the log-likelihood of a continuation, given the tokens before it."""

    tokens: Tokens
    """What the model reads: context and continuation without the last token, cut to the model's length."""
    continuation: Tokens
    """The tokens to score.  The logits at position `first` score the first of them, the next logits the next."""

    @property
    def first(self) -> int:
        """Position in `tokens` whose logits score the first token of the continuation."""
        return len(self.tokens) - len(self.continuation)


@dataclass(frozen=True)
class Mark:
    """A token to score, and the position of a node whose logits score it."""

    position: int
    """Within the node's tokens."""
    target: int
    """The token."""
    request: int
    """Index of the request."""


@dataclass(eq=False)
class Node:
    """A run of tokens and the nodes that follow it."""

    tokens: Tokens
    children: dict[Node, None] = field(default_factory=dict)
    """A set in insertion order; the values are None."""
    marks: list[Mark] = field(default_factory=list)
    inputs: list[Tokens] = field(default_factory=list)
    """Distinct inputs that end in this node."""
    generations: int = 0
    """Most nodes with children on a path from this node down to a leaf, itself included."""
    reach: int = 0
    """Most tokens in the nodes with children on such a path."""

    def walk(self) -> Iterator[Node]:
        """The node and all nodes below it, parents first."""
        waiting = [self]
        while waiting:
            node = waiting.pop()
            yield node
            waiting.extend(node.children)


@dataclass(frozen=True)
class Tree:
    """The tree of all requests of a call."""

    roots: list[Node]
    plain: int
    """Tokens that run when every distinct input runs separately, as in lm-eval."""
    distinct: int
    """Tokens that have to run at least once."""

    def nodes(self) -> Iterator[Node]:
        """All nodes, parents before children."""
        for root in self.roots:
            yield from root.walk()

    @property
    def tokens(self) -> int:
        """Tokens of all nodes: those that the engine runs."""
        return sum(len(node.tokens) for node in self.nodes())


def build_tree(requests: Sequence[Query], dissolved: Callable[[Node, int], Iterable[Node]] = lambda *_: ()) -> Tree:
    """The prefix tree of the requests.

    Args:
        dissolved: (top node, number of distinct tokens) -> nodes to dissolve: each of their children runs their tokens.
    """
    targets = _targets_by_input(requests)
    inputs = sorted(targets)
    top = Node(())
    distinct = _insert_inputs(top, inputs)
    # Where an input only continues another one, there is no branch and no node is needed.
    _dissolve_nodes(top, [node for node in top.walk() if len(node.children) == 1 and node is not top])
    _dissolve_nodes(top, dissolved(top, distinct))
    _place_marks(top, targets)
    _measure_depths(top)
    return Tree(list(top.children), sum(map(len, inputs)), distinct)


Targets = list[tuple[int, int, int]]
"""(position, target token, request index) of each token to score after an input."""


def _targets_by_input(requests: Sequence[Query]) -> dict[Tokens, Targets]:
    """Distinct input -> the tokens to score after it."""
    targets: dict[Tokens, Targets] = {}
    for index, request in enumerate(requests):
        scored = enumerate(request.continuation, start=request.first)
        targets.setdefault(request.tokens, []).extend((position, target, index) for position, target in scored)
    return targets


def _insert_inputs(top: Node, inputs: Sequence[Tokens]) -> int:
    """Put sorted inputs below `top`; returns the number of distinct tokens."""
    # The nodes of the last input, each with the position at which it begins.
    path: list[tuple[int, Node]] = [(0, top)]
    before: Tokens = ()
    distinct = 0
    for tokens in inputs:
        shared = _common_length(before, tokens)
        distinct += len(tokens) - shared
        while len(path) > 1 and path[-1][0] >= shared:
            path.pop()
        start, node = path[-1]
        if shared < start + len(node.tokens):
            _split_node(node, shared - start)
        child = Node(tokens[shared:], inputs=[tokens])
        node.children[child] = None
        path.append((shared, child))
        before = tokens
    return distinct


def _common_length(one: Tokens, other: Tokens) -> int:
    """Length of the common beginning, by bisection, because comparing slices is faster than comparing tokens."""
    low, high = 0, min(len(one), len(other))
    while low < high:
        middle = (low + high + 1) // 2
        if one[low:middle] == other[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


def _split_node(node: Node, at: int) -> None:
    """Cut a node in two; the part from position `at` on becomes its child."""
    child = Node(node.tokens[at:], node.children, inputs=node.inputs)
    node.tokens, node.children, node.inputs = node.tokens[:at], {child: None}, []


def _dissolve_nodes(top: Node, nodes: Iterable[Node]) -> None:
    """Remove nodes.  Their tokens go to each of their children, inputs that ended in them to the first child."""
    parents = {child: node for node in top.walk() for child in node.children}
    for node in nodes:
        parent = parents.pop(node)
        for child in node.children:
            child.tokens = node.tokens + child.tokens
            parents[child] = parent
        next(iter(node.children)).inputs += node.inputs
        del parent.children[node]
        parent.children.update(node.children)


def _place_marks(top: Node, targets: dict[Tokens, Targets]) -> None:
    """Give each token to score to the node that contains its position, on the path of its input."""
    path: list[Node] = []
    starts: list[int] = []
    waiting = [(0, 0, child) for child in top.children]
    while waiting:
        depth, start, node = waiting.pop()
        path[depth:], starts[depth:] = [node], [start]
        for tokens in node.inputs:
            for position, target, request in targets[tokens]:
                place = bisect_right(starts, position) - 1
                path[place].marks.append(Mark(position - starts[place], target, request))
        waiting.extend((depth + 1, start + len(node.tokens), child) for child in node.children)


def _measure_depths(top: Node) -> None:
    """Set `generations` and `reach` of all nodes."""
    for node in reversed(list(top.walk())):
        if node.children:
            node.generations = 1 + max(child.generations for child in node.children)
            node.reach = len(node.tokens) + max(child.reach for child in node.children)
