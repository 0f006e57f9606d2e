"""A kernel package that says itself that it cannot compute on this machine is missing here; its result is not wrong.

fla refuses backward passes where the installed Triton is known to compile them wrongly for the GPU.  That is nothing
that a change of the kernels did.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import contextmanager
from traceback import walk_tb

import pytest

from scanproof.kernels.launches import kernel_table
from scanproof.plugin.kernel_evidence import is_kernel_test
from scanproof.plugin.session import session_of


class Refusals:
    """The part of the plugin that takes such an error for a missing package: a skip, under strict a failure."""

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> Generator[None, object, object]:
        """What is timed is called in a fixture."""
        with skip_refusals(item):
            return (yield)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Generator[None, object, object]:
        with skip_refusals(item):
            return (yield)


@contextmanager
def skip_refusals(item: pytest.Item) -> Iterator[None]:
    """A block in which a refusal stops a kernel test with the reason."""
    try:
        yield
        return
    except RuntimeError as error:
        if (reason := find_refusal(error)) is None or not is_kernel_test(item):
            raise
    if session_of(item.config).settings.strict:
        pytest.fail(f"{reason} (--scanproof-strict: not a skip)", pytrace=False)
    pytest.skip(reason)


def find_refusal(error: RuntimeError) -> str | None:
    """What a package refuses, and what to do about it; None: the error is another, or was raised by somebody else."""
    said = " ".join(str(error).split())
    raised_in = [frame.f_globals.get("__name__", "").partition(".")[0] for frame, _ in walk_tb(error.__traceback__)]
    for package in kernel_table.PACKAGES:
        if raised_in and raised_in[-1] in package.modules and any(words in said for words in package.refusals):
            return f"not measured: {package.distribution} refuses to compute here: {said}"
    return None
