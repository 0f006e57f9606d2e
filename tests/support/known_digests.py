"""Digests of the installed packages for new stores of tests: a session in a new process takes seconds for them."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from functools import cache
from pathlib import Path

from scanproof.evaluation.imported import Imports
from scanproof.evaluation.request import open_digests


@cache
def compute_digests() -> Path:
    """A store that knows the packages of this environment; one for all tests of this process."""
    store = Path(tempfile.mkdtemp(prefix="scanproof-digests-"))
    atexit.register(shutil.rmtree, store, ignore_errors=True)
    with open_digests(store) as digests:
        Imports().packages(digests)
    return store


def copy_digests(store: Path) -> None:
    """Copy the digests into a store that has no cache yet."""
    if not (store / "cache").exists():
        shutil.copytree(compute_digests() / "cache", store / "cache")
