"""Registered where pytest-benchmark is not loaded: its mark is known, and tests that ask for its fixture say so."""

from __future__ import annotations

import pytest

from scanproof.plugin import latency
from scanproof.plugin.session import session_of


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "benchmark: settings of pytest-benchmark, which is not loaded")


@pytest.fixture
def benchmark(request: pytest.FixtureRequest) -> None:
    """Skips, or under --scanproof-strict fails."""
    session = session_of(request.config)
    reason = f"latency was not measured: {latency.why_not_measured(session)}"
    if session.settings.strict:
        pytest.fail(f"{reason} (--scanproof-strict: not a skip)", pytrace=False)
    pytest.skip(reason)
