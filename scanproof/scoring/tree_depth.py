"""Which nodes of the tree are worth a state of their own.

Nodes with children run level by level, and a level is a pass of the model at least.  A node that is dissolved gives its
tokens to each of its children: more tokens run, but fewer rows, and perhaps a level less.  What each number of levels
costs at least is found from the leaves up; taken is the cheapest of them that needs no more tokens than are allowed.
Where none does, as with one long chain of turns, all nodes stay.

Letters: a dissolved nodes right above a node, v levels that are left for it and those below.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from scanproof.scoring.prefix_tree import Node

MOST_LEVELS = 6
"""A tree gets as many levels as that, or keeps all that it has: each saves less than the one before."""
MOST_ABOVE = 16
"""Dissolved nodes, one below the other."""
Costs = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Prices:
    """What running costs, in tokens."""

    level: float
    """A pass of the model, whatever is in it."""
    row: float
    """Handing one state on."""
    slack: float
    """Share of the distinct tokens that may run again, at most."""


@dataclass(frozen=True)
class Choice:
    """What is best for a node, by (a, v)."""

    costs: Costs
    """Of the node and all below it; inf where there are not enough levels."""
    kept: npt.NDArray[np.bool_]
    """Whether the node is kept."""


def dissolved(top: Node, distinct: int, prices: Prices) -> list[Node]:
    """The nodes below `top` that are better dissolved, parents first; `distinct` is the number of its tokens."""
    inner = [node for node in top.walk() if node.children and node is not top]
    # The price of a row is a guess that may ask for more tokens than are allowed.
    for row in (prices.row, 0.0):
        choices = _choices(inner, row)
        costs = sum((choices[root].costs[0] for root in top.children if root.children), np.zeros(MOST_LEVELS + 1))
        for levels in np.argsort(costs + prices.level * np.arange(MOST_LEVELS + 1), kind="stable"):
            gone, tokens = _walk(top, choices, int(levels)) if np.isfinite(costs[levels]) else ([], np.inf)
            if tokens <= distinct * (1 + prices.slack):
                return gone
    return []


def _choices(inner: Sequence[Node], row: float) -> Mapping[Node, Choice]:
    """The choice of each node; `inner` has parents first."""
    above = _above(inner)
    choices: dict[Node, Choice] = {}
    for node in reversed(inner):
        own = above[node][:, None] + len(node.tokens)
        leaves = [len(child.tokens) for child in node.children if not child.children]
        below = [choices[child].costs for child in node.children if child.children]
        gone = np.full((len(own), MOST_LEVELS + 1), float(sum(leaves))) + own * len(leaves)
        kept = np.full_like(gone, np.inf)
        kept[:, 1:] = own + row + sum(leaves)
        for costs in below:
            # A child has one more above it, as long as that are not too many.
            more = costs[1 : len(own) + 1]
            gone[: len(more)] += more
            gone[len(more) :] = np.inf
            kept[:, 1:] += costs[0, :-1]
        choices[node] = Choice(np.minimum(gone, kept), kept < gone)
    return choices


def _above(inner: Sequence[Node]) -> Mapping[Node, Costs]:
    """Tokens of the a nodes right above each node, (a + 1,), a from 0 on."""
    found: dict[Node, Costs] = {}
    for node in inner:
        own = found.setdefault(node, np.zeros(1))
        for child in node.children:
            if child.children:
                found[child] = np.concatenate([[0.0], len(node.tokens) + own[:MOST_ABOVE]])
    return found


def _walk(top: Node, choices: Mapping[Node, Choice], levels: int) -> tuple[list[Node], int]:
    """The nodes that are dissolved when there are so many levels, parents first, and the tokens that run then."""
    gone, tokens = [], 0
    waiting = [(child, 0, 0, levels) for child in top.children]
    while waiting:
        node, count, carried, left = waiting.pop()
        carried += len(node.tokens)
        if not node.children:
            tokens += carried
        elif choices[node].kept[count, left]:
            tokens += carried
            waiting.extend((child, 0, 0, left - 1) for child in node.children)
        else:
            gone.append(node)
            waiting.extend((child, count + 1, carried, left) for child in node.children)
    return gone, tokens
