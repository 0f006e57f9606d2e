"""`scanproof lm-eval`."""

from __future__ import annotations

import os
import sys

import typer


def lm_eval(context: typer.Context) -> None:
    """Call lm-eval's own command line with scanproof's model classes registered; every argument is lm-eval's."""
    # This process is replaced: only a worker may import torch and lm-eval, and lm-eval ends the process itself.
    command = [sys.executable, "-m", "scanproof.evaluation.worker.lm_eval_command", *context.args]
    os.execv(sys.executable, command)
