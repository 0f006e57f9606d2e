"""The session whose run is judged once more: it takes long, so each process of pytest has one."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.measured_run import Measured, measure


@pytest.fixture(scope="session")
def good(tmp_path_factory: pytest.TempPathFactory) -> Measured:
    code, measured = measure(tmp_path_factory.mktemp("good"), lambda copy: None, "", "embedded")
    assert code == 0
    return measured


@pytest.fixture
def own(good: Measured, tmp_path: Path) -> Measured:
    """The good session with a store that may be changed."""
    shutil.copytree(good.store, tmp_path / "store")
    return replace(good, store=tmp_path / "store")
