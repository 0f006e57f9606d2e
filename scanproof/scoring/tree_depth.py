"""Decide which nodes of the tree keep a state of their own, and which are dissolved.

Nodes with children run level by level, and each level costs at least one pass of the model.  A dissolved node gives its
tokens to each of its children: more tokens run, but in fewer rows and perhaps in fewer levels.  The least cost for each
number of levels is computed from the leaves up.  The cheapest number of levels that stays within the token budget is
taken.  If none does, as with one long chain of turns, all nodes stay.

Letters: a dissolved nodes directly above a node, v levels that remain for it and the nodes below it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from scanproof.scoring.prefix_tree import Node

MOST_LEVELS = 6
"""Try at most six levels; if none fits the token budget, leave the tree alone.  Each further level saves less."""
MOST_ABOVE = 16
"""Most dissolved nodes in a chain, each the child of the one before."""
Costs = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Prices:
    """What running the tree costs, in tokens."""

    level: float
    """Fixed cost of a pass of the model."""
    row: float
    """Cost of passing one state to the children."""
    slack: float
    """Largest share of the distinct tokens that may run again: the token budget."""


@dataclass(frozen=True)
class Choice:
    """The best decision for a node, for each (a, v)."""

    costs: Costs
    """(a, v), cost of the node and all nodes below it; inf where the levels do not suffice."""
    kept: npt.NDArray[np.bool_]
    """(a, v), whether the node stays."""


def choose_dissolved(top: Node, distinct: int, prices: Prices) -> list[Node]:
    """The nodes below `top` to dissolve, parents first; `distinct` is the number of distinct tokens of the tree."""
    inner = [node for node in top.walk() if node.children and node is not top]
    # The price of a row is an estimate; with it, the cheapest tree may exceed the token budget.
    for row in (prices.row, 0.0):
        choices = _choose_for_nodes(inner, row)
        costs = sum((choices[root].costs[0] for root in top.children if root.children), np.zeros(MOST_LEVELS + 1))
        for levels in np.argsort(costs + prices.level * np.arange(MOST_LEVELS + 1), kind="stable"):
            gone, tokens = _list_dissolved(top, choices, int(levels)) if np.isfinite(costs[levels]) else ([], np.inf)
            if tokens <= distinct * (1 + prices.slack):
                return gone
    return []


def _choose_for_nodes(inner: Sequence[Node], row: float) -> Mapping[Node, Choice]:
    """The best decisions for each node with children; `inner` has parents first."""
    above = _tokens_above(inner)
    choices: dict[Node, Choice] = {}
    for node in reversed(inner):
        own = above[node][:, None] + len(node.tokens)
        leaves = [len(child.tokens) for child in node.children if not child.children]
        below = [choices[child].costs for child in node.children if child.children]
        # Cost (a, v) if the node is dissolved, and if it stays.
        gone = np.full((len(own), MOST_LEVELS + 1), float(sum(leaves))) + own * len(leaves)
        stays = np.full_like(gone, np.inf)
        stays[:, 1:] = own + row + sum(leaves)
        for costs in below:
            # If this node is dissolved, its child has one more dissolved node above it, at most MOST_ABOVE.
            more = costs[1 : len(own) + 1]
            gone[: len(more)] += more
            gone[len(more) :] = np.inf
            stays[:, 1:] += costs[0, :-1]
        choices[node] = Choice(np.minimum(gone, stays), stays < gone)
    return choices


def _tokens_above(inner: Sequence[Node]) -> Mapping[Node, Costs]:
    """Node -> number of tokens of the a nodes directly above it, for a from 0 on."""
    tokens: dict[Node, Costs] = {}
    for node in inner:
        own = tokens.setdefault(node, np.zeros(1))
        for child in node.children:
            if child.children:
                tokens[child] = np.concatenate([[0.0], len(node.tokens) + own[:MOST_ABOVE]])
    return tokens


def _list_dissolved(top: Node, choices: Mapping[Node, Choice], levels: int) -> tuple[list[Node], int]:
    """The nodes to dissolve for this number of levels, parents first, and how many tokens then run."""
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
