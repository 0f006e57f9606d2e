"""Every option says what it does and how else it can be given."""

from __future__ import annotations

import pytest


@pytest.mark.parametrize(
    "flag",
    [
        f"--scanproof-{name}"
        for name in (
            "expected",
            "store",
            "mirror",
            "history",
            "strict",
            "fresh",
            "reuse",
            "timeout",
            "engine",
            "limit",
            "record-latency",
            "provider",
        )
    ],
)
def test_every_option_is_in_the_help_with_its_twins(pytester: pytest.Pytester, flag: str) -> None:
    text = " ".join(pytester.runpytest_subprocess("--help").stdout.str().split())
    name = flag.removeprefix("--").replace("-", "_")
    assert flag in text
    assert f"[ini: {name}, environment: {name.upper()}]" in text
