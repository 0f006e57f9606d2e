"""The suite's own configuration; what it tests is offered to others by `scanproof.plugin.hooks`."""

pytest_plugins = [
    "pytester",
    "tests.support.small_project",
    "tests.support.latency_project",
    "tests.support.small_jobs",
    "tests.support.rates",
]
