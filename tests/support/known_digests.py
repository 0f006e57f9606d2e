"""What a session finds out about installed packages, for new stores of tests: a new process takes seconds for it."""

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
    """A store that knows this environment's packages and lm-eval's tasks; one for all tests of this process."""
    store = Path(tempfile.mkdtemp(prefix="scanproof-digests-"))
    atexit.register(shutil.rmtree, store, ignore_errors=True)
    imports = Imports()
    with open_digests(store) as digests:
        imports.packages(digests)
    imports.task_index(store / "cache")
    return store


def copy_digests(store: Path) -> None:
    """Copy what is known into a store that has no cache yet."""
    if not (store / "cache").exists():
        shutil.copytree(compute_digests() / "cache", store / "cache")
