"""Registered where pytest-benchmark is not loaded: its mark is known, and tests that ask for its fixture say so."""

from __future__ import annotations

import pytest

from scanproof import latencies, state


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "benchmark: settings of pytest-benchmark, which is not loaded")


@pytest.fixture
def benchmark(request: pytest.FixtureRequest) -> None:
    """Skips, or under --scanproof-strict fails."""
    reason = f"latency was not measured: {latencies.why_not_measured(request.config)}"
    if request.config.stash[state.SETTINGS].strict:
        pytest.fail(f"{reason} (--scanproof-strict: not a skip)", pytrace=False)
    pytest.skip(reason)
