"""Every pair of an operation's optional arguments and options has a row, or a reason why it has none."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from scanproof.kernels import cases
from tests.support.late import Late

if TYPE_CHECKING:
    from torch import Tensor

    from scanproof.kernels import operation, operation_table, pairs
else:
    operation, operation_table = Late("scanproof.kernels.operation"), Late("scanproof.kernels.operation_table")
    pairs = Late("scanproof.kernels.pairs")

ALL = cases.load()
NAMES = sorted({case.op for case in ALL})
DOCUMENT = Path(__file__).parents[2] / "docs" / "kernels.md"


def refusals_of(name: str) -> Any:
    return pairs.load_refusals().get(name, ())


def describe_missing(op: Any, count: Any) -> str:
    """What is missing, and rows that would have it."""
    proposed = pairs.propose_rows(pairs.list_choices(op), count.missing, refusals_of(op.name))
    lines = [f"{op.name}: {len(count.missing)} of {count.possible} pairs have no row in cases.yaml:"]
    lines += [f"  {pairs.describe_choices(pair)}" for pair in count.missing]
    return "\n".join([*lines, "rows that would have them all:", *(f"  {pairs.describe_choices(r)}" for r in proposed)])


@pytest.mark.parametrize("name", NAMES)
def test_every_pair_that_an_operation_takes_has_a_row(name: str) -> None:
    op = operation_table.find_operation(name)
    count = pairs.count_pairs(op, ALL, refusals_of(name))
    assert not count.missing, describe_missing(op, count)


def test_the_pairs_are_as_many_as_the_text_says() -> None:
    counts = [pairs.count_pairs(operation_table.find_operation(name), ALL, refusals_of(name)) for name in NAMES]
    said = re.search(r"([\d,]+) of ([\d,]+) pairs[^.]*; ([\d,]+) more", DOCUMENT.read_text(encoding="utf-8"))
    assert said is not None
    totals = (sum(c.covered for c in counts), sum(c.possible for c in counts), sum(c.refused for c in counts))
    assert tuple(int(number.replace(",", "")) for number in said.groups()) == totals


@pytest.mark.parametrize("name", NAMES)
def test_what_is_refused_is_a_choice_that_no_row_makes(name: str) -> None:
    op, refusals = operation_table.find_operation(name), refusals_of(name)
    assert {choice for refusal in refusals for choice in refusal.choices} <= set(pairs.list_choices(op))
    for case in ALL:
        if case.op == name and case.raises is None:
            taken = pairs.take_choices(op, case)
            broken = [refusal for refusal in refusals if refusal.choices.items() <= taken.items()]
            assert not broken, f"{case.id} has what {broken[0]} says that no row can have"
    assert set(pairs.load_refusals()) <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_rows_that_are_proposed_have_every_pair_and_nothing_refused(name: str) -> None:
    op, refusals = operation_table.find_operation(name), refusals_of(name)
    choices = pairs.list_choices(op)
    count = pairs.count_pairs(op, (), refusals)
    rows = pairs.propose_rows(choices, count.missing, refusals)
    assert all(any(pair.items() <= row.items() for row in rows) for pair in count.missing)
    assert not [row for row in rows for refusal in refusals if refusal.choices.items() <= row.items()]
    assert all(set(row) == set(choices) for row in rows)
    # About one for each choice, and not one for each pair.
    assert len(rows) <= len(choices) + 2


def test_a_new_argument_and_a_new_option_need_rows() -> None:
    op = operation_table.find_operation("rmsnorm_fn")

    def newer(x: Tensor, weight: Tensor, bias: Tensor | None, z: Tensor | None = None, eps: float = 1e-6,
              group_size: int | None = None, norm_before_gate: bool = True, scale: Tensor | None = None,
              fast: bool = False) -> None:  # fmt: skip
        """The norm with two arguments more."""

    grown = replace(op, reference=newer, arguments=(*op.arguments, operation.optional_argument("scale", "d")))
    before, after = (pairs.count_pairs(each, ALL, ()) for each in (op, grown))
    assert not before.missing
    named = {frozenset(name for name in pair if name in ("scale", "fast")) for pair in after.missing}
    assert named == {frozenset({"scale"}), frozenset({"fast"}), frozenset({"scale", "fast"})}
    assert "with scale, fast" in describe_missing(grown, after)


def test_a_row_that_goes_leaves_its_pairs_without_one() -> None:
    op = operation_table.find_operation("rmsnorm_fn")
    left = [case for case in ALL if case.name not in ("pairwise_1", "bias")]
    missing = pairs.count_pairs(op, left, ()).missing
    assert {"bias": True, "z": False} in missing
    assert {"bias": True, "group_size": True} in missing


def test_a_row_that_is_known_to_raise_asks_for_nothing() -> None:
    op = operation_table.find_operation("mamba_inner_fn")
    (case,) = [each for each in ALL if each.id == "mamba_inner_fn-bias_gradient-float32"]
    count = pairs.count_pairs(op, [case], ())
    assert count.covered == 0


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"with": ["z"]}, "refused: rmsnorm_fn: because: field required"),
        ({"with": ["z"], "because": ""}, "because: string should have at least 1 character"),
        ({"because": "x"}, "write one or two names under with: and without:"),
        ({"with": ["a", "b", "c"], "because": "x"}, "write one or two names"),
        ({"with": ["a"], "without": ["a"], "because": "x"}, "each once"),
        ({"with": "z", "because": "x"}, "with: input should be a valid list"),
        ({"witout": ["z"], "because": "x"}, "witout: extra inputs are not permitted"),
    ],
)
def test_a_wrong_refusal_is_named(tmp_path: Path, row: dict[str, Any], message: str) -> None:
    path = tmp_path / "cases.yaml"
    path.write_text(yaml.safe_dump({"refused": {"rmsnorm_fn": [row]}}))
    with pytest.raises(cases.CaseError, match=message):
        pairs.load_refusals(path)
