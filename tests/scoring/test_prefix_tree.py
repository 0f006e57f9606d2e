"""The prefix tree of a call's requests: repeated tokens stay within the budget, each scored token has one mark."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import partial
from itertools import chain, combinations
from typing import TYPE_CHECKING

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tests.support.late import Late

if TYPE_CHECKING:
    from scanproof.scoring import prefix_tree, tree_depth
    from scanproof.scoring.prefix_tree import Node, Query, Tree
else:
    tree_depth, prefix_tree = Late("scanproof.scoring.tree_depth"), Late("scanproof.scoring.prefix_tree")

FREE = (0.0, 0.0)
CHEAP = (3.0, 1.0)
DEAR = (1e6, 1e3)
"""Prices of a level and of a row, in tokens."""


def asked(pairs: Sequence[tuple[Sequence[int], Sequence[int]]]) -> list[Query]:
    """The queries of (context, continuation) pairs."""
    return [prefix_tree.Query(tuple([*context, *rest][:-1]), tuple(rest)) for context, rest in pairs]


def requests() -> st.SearchStrategy[list[Query]]:
    """Three different tokens only, so that sequences share beginnings, nest and repeat."""
    tokens = st.lists(st.integers(0, 2), min_size=1, max_size=9)
    return st.lists(st.tuples(tokens, tokens), max_size=25).map(asked)


def paths(found: Tree) -> list[tuple[tuple[int, ...], Node]]:
    """Each node, with all tokens from the root to its end."""
    waiting: list[tuple[tuple[int, ...], Node]] = [((), root) for root in found.roots]
    ended = []
    while waiting:
        before, node = waiting.pop()
        whole = before + node.tokens
        ended.append((whole, node))
        waiting.extend((whole, child) for child in node.children)
    return ended


def prefixes(given: Sequence[Query]) -> set[tuple[int, ...]]:
    return {each.tokens[:end] for each in given for end in range(1, len(each.tokens) + 1)}


def check(given: Sequence[Query], slack: float, prices: tuple[float, float] = DEAR) -> Tree:
    """Build a tree and check everything that holds for every tree."""
    found = prefix_tree.build_tree(
        given, partial(tree_depth.choose_dissolved, prices=tree_depth.Prices(*prices, slack))
    )
    assert found.distinct == len(prefixes(given))
    assert found.plain == sum(map(len, {each.tokens for each in given}))
    assert found.distinct <= found.tokens <= found.distinct * (1 + slack)
    assert len(list(found.nodes())) == len(paths(found))
    told: Counter[tuple[int, tuple[int, ...], int]] = Counter()
    for whole, node in paths(found):
        assert node.tokens
        for mark in node.marks:
            assert 0 <= mark.position < len(node.tokens)
            read = whole[: len(whole) - len(node.tokens) + mark.position + 1]
            told[mark.request, read, mark.target] += 1
    wanted = Counter(
        (index, each.tokens[: each.first + place + 1], target)
        for index, each in enumerate(given)
        for place, target in enumerate(each.continuation)
    )
    assert told == wanted
    return found


@given(requests(), st.sampled_from([0.0, 0.08, 0.5]), st.sampled_from([FREE, CHEAP, DEAR]))
@settings(max_examples=150)
def test_every_target_is_asked_for_once_after_its_own_prefix(
    given: list[Query], slack: float, prices: tuple[float, float]
) -> None:
    check(given, slack, prices)


@given(requests())
def test_without_slack_each_distinct_prefix_runs_once_and_siblings_begin_differently(given: list[Query]) -> None:
    found = check(given, 0.0)
    assert found.tokens == found.distinct
    for siblings in [found.roots, *(list(node.children) for node in found.nodes())]:
        assert len({node.tokens[0] for node in siblings}) == len(siblings)
    assert all(len(node.children) != 1 for node in found.nodes())


def test_the_figure_of_the_module() -> None:
    capital, france, italy, paris, rome = (1, 2, 3), (4, 5), (6, 5), 7, 8
    found = check(
        asked([(capital + france, (paris, 0)), (capital + france, (rome, 0)), (capital + italy, (rome, 0))]), 0.0
    )
    (root,) = found.roots
    assert root.tokens == capital
    assert [child.tokens for child in root.children] == [france, (*italy, rome)]
    assert [child.tokens for first in root.children for child in first.children] == [(paris,), (rome,)]
    assert (found.plain, found.distinct) == (18, 10)


def ways(top: Node, gone: frozenset[Node]) -> tuple[int, int, int]:
    """(tokens that run, nodes with children, their levels) without the nodes `gone`, counted along each path."""
    tokens, kept, deepest = 0, 0, 0
    waiting = [(child, 0, 0) for child in top.children]
    while waiting:
        node, carried, above = waiting.pop()
        carried += len(node.tokens)
        if node in gone:
            waiting.extend((child, carried, above) for child in node.children)
            continue
        tokens += carried
        kept += bool(node.children)
        deepest = max(deepest, above + bool(node.children))
        waiting.extend((child, 0, above + 1) for child in node.children)
    return tokens, kept, deepest


@given(requests(), st.floats(0, 20), st.floats(0, 5))
@settings(max_examples=100)
def test_no_other_choice_is_cheaper(given: list[Query], level: float, row: float) -> None:
    """Compared with all subsets of the nodes that could be dissolved."""
    tops: list[Node] = []

    def noted(top: Node, _: int) -> list[Node]:
        tops.append(top)
        return []

    found = prefix_tree.build_tree(given, noted)
    inner = [node for node in found.nodes() if node.children]
    assume(tops and len(inner) <= 9 and ways(tops[0], frozenset())[2] <= tree_depth.MOST_LEVELS)

    def price(gone: frozenset[Node]) -> float:
        tokens, kept, deepest = ways(tops[0], gone)
        return tokens + row * kept + level * deepest

    chosen = tree_depth.choose_dissolved(tops[0], found.distinct, tree_depth.Prices(level, row, 1e9))
    subsets = chain.from_iterable(combinations(inner, count) for count in range(len(inner) + 1))
    assert price(frozenset(chosen)) == pytest.approx(min(price(frozenset(gone)) for gone in subsets))


def test_slack_is_spent_on_short_beginnings_that_few_share() -> None:
    pairs = [((1, 2), (3, *range(10, 40))), ((1, 2), (4, *range(10, 40)))]
    assert len(check(asked(pairs), 0.0).roots) == 1
    assert [len(node.tokens) for node in check(asked(pairs), 0.08).roots] == [32, 32]
    assert len(check(asked(pairs), 0.08, FREE).roots) == 1
    many = [((1, 2), (number, *range(10, 20))) for number in range(100, 160)]
    assert len(check(asked(many), 0.08).roots) == 1


def test_a_level_is_saved_where_it_costs_few_tokens_and_not_where_it_costs_many() -> None:
    """Questions that begin with the same token, with two answers each: the token runs again with each question."""
    pairs = [
        ((1, *range(100 * number, 100 * number + 30)), (answer, 0)) for number in range(2, 12) for answer in (5, 6)
    ]
    assert ways_of(check(asked(pairs), 0.1, FREE)) == 2
    saved = check(asked(pairs), 0.1, (10.0, 0.0))
    assert (ways_of(saved), saved.tokens - saved.distinct) == (1, 9)
    assert ways_of(check(asked(pairs), 0.1, DEAR)) == 1


def ways_of(found: Tree) -> int:
    """Most nodes with children on a path."""
    return max(root.generations for root in found.roots)


@pytest.mark.parametrize("count", [1, 2, 50])
def test_duplicates_run_once_and_are_all_answered(count: int) -> None:
    found = check(asked([((1, 2, 3), (4, 5))] * count), 0.08)
    assert (found.tokens, found.plain) == (4, 4)
    assert [len(node.marks) for node in found.nodes()] == [2 * count]


def test_no_requests_make_an_empty_tree() -> None:
    assert prefix_tree.build_tree([]) == prefix_tree.Tree([], 0, 0)


def test_3000_nested_inputs_are_one_run() -> None:
    found = prefix_tree.build_tree(asked([(range(length), (length,)) for length in range(1, 3001)]))
    assert [len(node.tokens) for node in found.nodes()] == [3000]
    assert sorted(mark.position for mark in found.roots[0].marks) == list(range(3000))


def test_3000_nested_branches_go_as_deep() -> None:
    """Each nested input ends in a different token, so every node that is dissolved costs tokens."""
    found = prefix_tree.build_tree(asked([((*range(length), -1), (0,)) for length in range(1, 3001)]))
    assert found.tokens == found.distinct == 6000
    deepest, node = 0, found.roots[0]
    while node.children:
        node = max(node.children, key=lambda child: (len(child.children), child.tokens))
        deepest += 1
    assert deepest >= 2999


def test_marks_are_made_once_however_deep(monkeypatch: pytest.MonkeyPatch) -> None:
    """600 nested texts, scored from their first token on, as for perplexity: no mark is copied between nodes."""
    made, mark = 0, prefix_tree.Mark

    def counted(*args: int) -> prefix_tree.Mark:
        nonlocal made
        made += 1
        return mark(*args)

    monkeypatch.setattr("scanproof.scoring.prefix_tree.Mark", counted)
    prefix_tree.build_tree(
        [prefix_tree.Query(tuple(range(length)), tuple(range(1, length + 1))) for length in range(1, 601)]
    )
    assert made == 600 * 601 // 2
