"""Which tests are kernel tests, and what has to be known of one that passed, was skipped or was expected to fail.

Any plugin or conftest.py can mark a test to be skipped or expected to fail, replace its fixtures or change its report.
What scanproof allows and what it compared it writes into the test's user properties, which come to the controller with
the report.  Others can change those, so which tests are kernel tests and what they raised is handed on apart as well.
"""

from __future__ import annotations

from typing import NoReturn

import pytest

FIXTURES = frozenset({
    "scanproof_case", "scanproof_latency_case", "scanproof_place", "scanproof_not_interpreted", "scanproof_interpreter",
    "scanproof_missing", "scanproof_cannot_run",
})  # fmt: skip
"""A test that uses one of these is a kernel test."""
KERNEL_TEST = "scanproof kernel test"
"""User property that every kernel test has."""
ALLOWED = "scanproof allows"
"""User property of a test that may be skipped or fail as expected: why."""
CHECK = "scanproof_check_kernel"
"""A test that uses this fixture has to compare its operation."""
CHECKED = "scanproof compared"
"""User property of a test whose operation launched its kernels and was right: the id of the case."""
LAUNCHED = "launched"
"""User property of a test whose launches were watched: what they were."""
PROVIDER = "scanproof provider"
"""User property of a test of a provider: its title."""
PROVIDER_FIXTURE = "scanproof_provider"
ENTERED = "scanproof provider entered"
"""User property of a test whose provider was seen to be entered: which function, where it stands."""
RAISED_IN_REPORT = "scanproof saw it raise"
"""Beginning of the user property of a test that raised an error, whatever its report says; its phase follows."""


class KnownMiss(Exception):
    """An installed operation missed the criterion where that is known; nothing else is expected of it."""


def has_launched(item: pytest.Item) -> bool:
    """Whether a test's operation launched a kernel, or entered a CUDA extension, while it was watched."""
    return any(name == LAUNCHED and launches for name, launches in item.user_properties)


def note_kernel_test(item: pytest.Item) -> None:
    """Note with a test that is collected whether it is a kernel test."""
    if is_kernel_test(item):
        item.user_properties.append((KERNEL_TEST, CHECK if CHECK in getattr(item, "fixturenames", ()) else ""))
    provider = getattr(getattr(item, "callspec", None), "params", {}).get(PROVIDER_FIXTURE)
    if provider is not None:
        item.user_properties.append((PROVIDER, provider.title))


def is_kernel_test(item: pytest.Item) -> bool:
    """Whether a test uses a fixture of scanproof's kernels, whatever became of its properties."""
    return bool(FIXTURES.intersection(getattr(item, "fixturenames", ())))


def allow(item: pytest.Item, reason: str) -> None:
    """Note with a test that it may be skipped, or fail as expected, for this reason."""
    item.user_properties.append((ALLOWED, reason))


def skip_as_allowed(item: pytest.Item, reason: str) -> NoReturn:
    """Skip a test that this kind of machine can never run: no failure under --scanproof-strict either."""
    allow(item, reason)
    pytest.skip(reason)


def find_error(item: pytest.Item, call: pytest.CallInfo[None]) -> str | None:
    """Name of the error that a phase of a kernel test raised; None where it raised none, and for every other test."""
    return call.excinfo.typename if call.excinfo is not None and is_kernel_test(item) else None


def note_error(item: pytest.Item, call: pytest.CallInfo[None]) -> None:
    """Note with a kernel test that it raised, before any plugin makes a report of it."""
    if (name := find_error(item, call)) is not None:
        note_raised(item, call.when, name)


def note_raised(item: pytest.Item, when: str, name: str) -> None:
    """Note with a kernel test in which phase it raised what."""
    if is_kernel_test(item):
        item.user_properties.append((f"{RAISED_IN_REPORT} in its {when}", name))


def is_noted(report: pytest.TestReport) -> bool:
    """Whether a report says that it is of a kernel test."""
    return any(name == KERNEL_TEST for name, _ in report.user_properties)


def explain_unearned_pass(report: pytest.TestReport) -> str | None:
    """Why a kernel test that is reported as passed is none; None where it is one, and for every other report."""
    noted = dict(report.user_properties)
    if not report.passed or KERNEL_TEST not in noted:
        return None
    raised = noted.get(f"{RAISED_IN_REPORT} in its {report.when}")
    if raised is not None:
        return f"it raised {raised}"
    if report.when == "call" and noted[KERNEL_TEST] == CHECK and not (CHECKED in noted and LAUNCHED in noted):
        return "its operation was not compared with the reference, or its launches were not watched"
    if report.when == "call" and noted[KERNEL_TEST] == CHECK and PROVIDER in noted and ENTERED not in noted:
        return f"{noted[PROVIDER]} was not seen to be entered"
    return None


def is_not_allowed(report: pytest.TestReport) -> bool:
    """Whether a kernel test was skipped, or failed as expected, without the plugin's leave."""
    names = dict(report.user_properties)
    return report.skipped and KERNEL_TEST in names and ALLOWED not in names
