"""The suite's own configuration; what it tests is offered to others by `scanproof.plugin`."""

import sys
from importlib.util import find_spec
from pathlib import Path

# Also where pytest did not find the ini file, whose `pythonpath` says the same.
FOLDERS = ("tests/unit", "tests/plugin", "tests/kernels", "tests/browser", "tools")
sys.path[:0] = [str(Path(__file__).parent / name) for name in FOLDERS]

pytest_plugins = [
    "pytester",
    "small_project",
    "kernel_places",
    "latency_places",
    "latency_project",
    "small_jobs",
    "rates",
]

# Not installed where only kernels or published numbers are tested.
if find_spec("hypothesis"):
    from hypothesis import HealthCheck, settings

    # How long an example takes depends on what else the machine does: a slow one is no failure.
    settings.register_profile("no clock", settings(), deadline=None, suppress_health_check=[HealthCheck.too_slow])
    settings.load_profile("no clock")
