"""Plants a fault of the harness into the process that evaluates.

`on_path/sitecustomize.py` calls `plant` in a worker that is a process of its own, `warm_workers` in a fork.
"""

from __future__ import annotations

import os
from pathlib import Path

from scanproof.faults.gates import asked_otherwise, scored_otherwise


def plant(name: str, mark: str) -> None:
    """Plant the fault of this name and write the file `mark`; the process ends where that fails."""
    try:
        module = asked_otherwise if hasattr(asked_otherwise, name) else scored_otherwise
        getattr(module, name)()
        Path(mark).write_text(name)
    except BaseException as error:
        print(f"the fault {name} could not be planted: {error!r}", flush=True)
        os._exit(70)
