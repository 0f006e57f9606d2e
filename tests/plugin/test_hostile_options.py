"""Odd values of options, each from a seed: taken, or refused in a short visible line."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from scanproof.plugin import options
from tests.support.mutations import check_message, make_seed, odd_value


def test_a_thousand_values_of_options(tmp_path: Path) -> None:
    parsed = [option for option in options.OPTIONS if option.parse is not None]
    refused = 0
    for number in range(1_000):
        seed = make_seed(f"option {number}")
        option, value = seed.choice(parsed), odd_value(seed)
        config: Any = SimpleNamespace(
            getoption=lambda _, value=value: value, invocation_params=SimpleNamespace(dir=tmp_path)
        )
        try:
            options.read_option(config, option)
        except pytest.UsageError as error:
            refused += 1
            check_message(str(error), "scanproof: ")
    assert 100 < refused < 1_000
