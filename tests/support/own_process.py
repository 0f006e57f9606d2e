"""Sessions of a few tests, some of which run in a process of their own."""

from __future__ import annotations

import pytest

COMMON = """
import atexit, os, signal, sys, warnings
from pathlib import Path
import pytest

SESSION = os.getppid
HERE = Path(__file__).parent

@pytest.fixture
def pid(request):
    yield os.getpid()
    with open(HERE / "pids", "a") as file:
        file.write(f"{request.node.name} {os.getpid()}\\n")
"""


def run(pytester: pytest.Pytester, text: str, *arguments: str) -> pytest.RunResult:
    """Run pytest, in a process of its own, on a file with this text and with `COMMON` before it."""
    pytester.makepyfile(COMMON + text)
    return pytester.runpytest_subprocess("-p", "no:cacheprovider", *arguments)
