"""No network: what a test reads lies on this machine."""

from __future__ import annotations

import pytest


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """huggingface_hub asks no server."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
