"""A number that cannot fail in one direction says so where it is listed."""

from __future__ import annotations

import pytest

from scanproof.cli import listing
from scanproof.numbers.verdict import tolerance
from tests.support.builders import CONSTANTS, published


@pytest.mark.parametrize(
    ("metric", "expected", "allowed", "sides"),
    [
        ("acc", 0.25, 0.2536, ("low",)),
        ("acc", 0.9, 0.1, ("high",)),
        ("acc_norm", 0.5, 0.6, ("low", "high")),
        ("acc", 0.5, 0.03, ()),
        ("perplexity", 1.2, 0.3, ("low",)),
        ("perplexity", 8.1, 0.5, ()),
    ],
)
def test_which_sides_cannot_fail(metric: str, expected: float, allowed: float, sides: tuple[str, ...]) -> None:
    assert tolerance.list_blind_sides(metric, expected, allowed) == sides


def test_a_number_of_few_documents_is_listed_with_the_side_on_which_it_cannot_fail() -> None:
    """25.0 of 20 documents: 0.0 would pass, and the list says it."""
    value = published(printed="25.0", unit="percent", documents=20, harness="other")
    assert tolerance.compare(value, 0.0, CONSTANTS, documents=20).outcome.value == "REPRODUCED"
    assert listing.make_value_row(value, CONSTANTS)["cannot_be_too"] == "low"
    assert "cannot_be_too" in listing.COLUMNS
    sound = published(printed="75.0", unit="percent", documents=2000)
    assert listing.make_value_row(sound, CONSTANTS)["cannot_be_too"] == ""
