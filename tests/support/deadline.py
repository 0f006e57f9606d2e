"""A deadline, and a limit of memory, for tests that open pipes, devices and lists without an end.

Where the guard against such a file is broken, its test would wait for ever, or read until memory is full.
"""

from __future__ import annotations

import resource
import signal
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ENDLESS = ("mkfifo", "/dev/zero", "tests.support.mutations", "*endless")
"""What is written in a file of tests that opens them; mutations give names of devices to whatever takes a name, and
*endless is YAML that holds itself."""
SECONDS = 1200
"""The longest of these tests takes about a minute."""
BYTES = 1 << 33
"""Memory that a test may take in addition; they need a few hundred MB, and torch for CUDA a few GB of addresses."""


@pytest.fixture(autouse=True)
def deadline(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail a test that opens endless files and does not end."""
    if not opens_endless_files(request.path):
        yield
        return

    def fail(*_: object) -> None:
        pytest.fail(f"it still waits after {SECONDS} s: for a pipe or a device that should have been refused?")

    handler = signal.signal(signal.SIGALRM, fail)
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (addresses_in_use() + BYTES, hard))
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
        signal.signal(signal.SIGALRM, handler)


def addresses_in_use() -> int:
    """Bytes of address space that this process has."""
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


@cache
def opens_endless_files(path: Path) -> bool:
    """Whether a file of tests names a pipe or a device without an end."""
    text = path.read_text(encoding="utf-8")
    return any(word in text for word in ENDLESS)
