"""The suite's own configuration; what it tests is offered to others by `scanproof.plugin`."""

import sys
from pathlib import Path

# Also where pytest did not find the ini file, whose `pythonpath` says the same.
sys.path[:0] = [str(Path(__file__).parent / "tests" / name) for name in ("unit", "plugin", "kernels", "browser")]

pytest_plugins = [
    "pytester",
    "small_project",
    "kernel_places",
    "latency_places",
    "latency_project",
    "small_jobs",
    "rates",
]
