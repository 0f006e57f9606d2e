"""The command line, as a user calls it: in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def scanproof(*arguments: str, cwd: Path = ROOT, expect: int = 0, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a command; fails unless its exit code is the expected one, or where a traceback reached the user.

    Args:
        arguments: what one types after `scanproof`.
        cwd: folder to run it in.
        expect: exit code.
        variables: further variables of the environment.
    """
    command = [sys.executable, "-m", "scanproof", *arguments]
    environment = {**os.environ, "COLUMNS": "200", "NO_COLOR": "1", **variables}
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == expect, done.stderr
    assert "Traceback" not in done.stderr
    return done
