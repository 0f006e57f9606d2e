"""lm-eval's own command line with scanproof's model classes registered: what `scanproof lm-eval` runs."""

from __future__ import annotations

import sys


def main() -> None:
    """Register the classes, then let lm-eval read the arguments as its own."""
    from lm_eval.__main__ import cli_evaluate

    from scanproof import models

    models.register()
    sys.argv[0] = "lm_eval"
    cli_evaluate()


if __name__ == "__main__":
    main()
