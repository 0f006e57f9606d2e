"""The suite's own configuration; what it tests is offered to others by `scanproof.plugin.hooks`."""

from importlib.util import find_spec

pytest_plugins = [
    "pytester",
    "tests.support.deadline",
    "tests.support.forked_sessions",
    "tests.support.small_project",
    "tests.support.nightly_project",
    "tests.support.latency_project",
    "tests.support.small_jobs",
    "tests.support.offline",
    "tests.support.rates",
    "tests.support.warm_workers",
]

# Not installed where only kernels or published numbers are tested.
if find_spec("hypothesis"):
    from hypothesis import HealthCheck, settings

    # How long an example takes depends on what else the machine does: a slow one is no failure.
    settings.register_profile("no clock", settings(), deadline=None, suppress_health_check=[HealthCheck.too_slow])
    settings.load_profile("no clock")
