"""Sessions of a copy of the project as forks: they run the copy's code, and end as processes of their own do."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.planted import Copy, clean_copy

pytestmark = pytest.mark.usefixtures("warm_copies")

SAY = 'typer.echo(f"scanproof {__version__}")'


def start(copy: Copy) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "scanproof", "--version"]
    return subprocess.Popen(command, cwd=copy.folder, env=copy.environment(), stdout=subprocess.PIPE, text=True)


def test_the_code_is_the_copy_s(tmp_path: Path) -> None:
    copy = clean_copy(tmp_path)
    copy.edit("scanproof/__init__.py", '"0.1.0"', '"0.1.0+of.the.copy"')
    process = start(copy)
    assert process.communicate()[0] == "scanproof 0.1.0+of.the.copy\n"
    assert process.returncode == 0


@pytest.mark.parametrize(
    ("end", "code"),
    [
        ("raise SystemExit(3)", 3),
        ("import os; os._exit(4)", 4),
        ("import os; os.kill(os.getpid(), 9)", -signal.SIGKILL),
    ],
)
def test_it_ends_as_the_copy_does(tmp_path: Path, end: str, code: int) -> None:
    copy = clean_copy(tmp_path)
    copy.edit("scanproof/cli/app.py", SAY, end)
    process = start(copy)
    process.communicate()
    assert process.returncode == code


def test_it_ends_with_who_started_it(tmp_path: Path) -> None:
    copy = clean_copy(tmp_path)
    written = f"import os, time, pathlib; pathlib.Path({str(tmp_path / 'id')!r}).write_text(str(os.getpid()))"
    copy.edit("scanproof/cli/app.py", SAY, f"{written}; time.sleep(600)")
    process = start(copy)
    wait_until(lambda: (tmp_path / "id").exists() and (tmp_path / "id").read_text() != "")
    process.kill()
    process.communicate()
    number = int((tmp_path / "id").read_text())
    wait_until(lambda: not is_running(number))


def wait_until(is_true: Callable[[], bool]) -> None:
    """Wait; a minute is more than any machine needs."""
    end = time.monotonic() + 60
    while not is_true():
        assert time.monotonic() < end
        time.sleep(0.05)


def is_running(number: int) -> bool:
    try:
        os.kill(number, 0)
    except ProcessLookupError:
        return False
    return True
