"""The main job on the real stand-ins, in a process of its own: `pytest -m embedded tests/published`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from scanproof.record import Run, read_run
from tests.support.known_digests import copy_digests

ROOT = Path(__file__).parents[2]
RUNS = "runs/*/run.json"


def command(store: Path, *arguments: str) -> list[str]:
    return [
        sys.executable, "-m", "pytest", "-m", "embedded", "-p", "no:cacheprovider", "tests/published",
        "--scanproof-store", str(store), *arguments,
    ]  # fmt: skip


def embedded(store: Path, *arguments: str, expect: int = 0) -> tuple[Run, str]:
    """Run the suite; returns the recorded run and what was shown."""
    copy_digests(store)
    before = set(store.glob(RUNS))
    result = subprocess.run(command(store, *arguments), cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == expect, result.stdout + result.stderr
    (new,) = set(store.glob(RUNS)) - before
    return read_run(new), result.stdout
