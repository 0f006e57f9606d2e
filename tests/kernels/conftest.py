"""What every test of the kernel suite has."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def show_foreign_warnings(scanproof_foreign_warnings: None) -> None:
    """On a GPU torch and the packages under test warn of what no kernel can help: that is shown, and no error."""
