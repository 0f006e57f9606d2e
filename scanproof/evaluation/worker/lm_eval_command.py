"""lm-eval's own command line with scanproof's model classes registered; `scanproof lm-eval` starts it as a process.

It is a process of its own because it imports torch and lm-eval, which only a worker may import, and because lm-eval
reads `sys.argv` and ends the process itself.  Usage: `python -m scanproof.evaluation.worker.lm_eval_command ARGUMENTS`.
"""

from __future__ import annotations

import sys


def main() -> None:
    """Register the model classes, then let lm-eval parse the arguments as its own."""
    from lm_eval.__main__ import cli_evaluate

    from scanproof import models

    models.register()
    sys.argv[0] = "lm_eval"
    cli_evaluate()


if __name__ == "__main__":
    main()
